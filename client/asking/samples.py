"""Which samples are meant: a file that lists them, one a line."""

from pathlib import Path

from fedquit.client.asking.keys import FINGERPRINT
from fedquit.errors import InputError


def digests_in(file: Path) -> tuple[bytes, ...]:
    """Return the digests that a file lists, one of 64 hex digits a line; empty lines and those with # are skipped.

    Raises:
        InputError: it cannot be read, lists nothing, or a line is no digest.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the samples to forget from {file}: {error}") from error
    named = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for name in named:
        if not FINGERPRINT.fullmatch(name):
            raise InputError(f"{file}: '{name[:80]}' is not the digest of a sample (64 hex digits)")
    if not named:
        raise InputError(f"{file} lists no sample")
    return tuple(dict.fromkeys(bytes.fromhex(name) for name in named))

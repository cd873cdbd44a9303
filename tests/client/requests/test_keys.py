"""Key files: what is no key of this kind, or is open to others, is refused with the way out."""

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fedquit.client.requests.keys import fingerprint, is_signed, new_key, public_der, read_private, read_public, sign
from fedquit.errors import KeyFileError

PLAIN = NoEncryption()


def private_file(
    path: Path,
    key: ec.EllipticCurvePrivateKey,
    form: PrivateFormat = PrivateFormat.OpenSSH,
    encryption: KeySerializationEncryption = PLAIN,
) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, form, encryption))
    return path


@pytest.mark.parametrize("form", [PrivateFormat.OpenSSH, PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_key_is_read_in_the_formats_that_people_have(tmp_path: Path, form: PrivateFormat) -> None:
    key = new_key()
    read = read_private(private_file(tmp_path / "node.key", key, form))
    assert public_der(read) == public_der(key)


@pytest.mark.parametrize(
    ("encoding", "form"),
    [(Encoding.OpenSSH, PublicFormat.OpenSSH), (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)],
)
def test_a_public_key_file_has_the_fingerprint_of_its_key(
    tmp_path: Path, encoding: Encoding, form: PublicFormat
) -> None:
    key = new_key()
    (tmp_path / "node.pub").write_bytes(key.public_key().public_bytes(encoding, form) + b"\n")
    assert fingerprint(read_public(tmp_path / "node.pub")) == fingerprint(public_der(key))


@pytest.mark.skipif(os.name != "posix", reason="other platforms have no such rights")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610])
def test_a_private_key_readable_by_others_is_refused_with_the_chmod_line(tmp_path: Path, mode: int) -> None:
    path = private_file(tmp_path / "node.key", new_key())
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="others may read") as error:
        read_private(path)
    assert error.value.exit_code == 2
    subprocess.run(str(error.value).rpartition(": ")[2], shell=True, check=True)
    read_private(path)


def test_a_key_of_another_kind_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    files = [
        private_file(tmp_path / "small", ec.generate_private_key(ec.SECP256R1())),
        private_file(tmp_path / "locked", new_key(), PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
        private_file(tmp_path / "cut", new_key()),
        private_file(tmp_path / "huge", new_key()),
    ]
    files[2].write_bytes(files[2].read_bytes()[:200])
    files[3].write_bytes(bytes(20_000))
    for path in files[:3]:
        with pytest.raises(KeyFileError, match="ssh-keygen -t ecdsa -b 384"):
            read_private(path)
    with pytest.raises(KeyFileError, match="too large"):
        read_private(files[3])
    with pytest.raises(KeyFileError, match="cannot read the key"):
        read_private(tmp_path / "nowhere")
    for path in files[2:]:
        with pytest.raises(KeyFileError):
            read_public(path)


def test_a_signature_of_another_curve_or_key_does_not_count() -> None:
    small = ec.generate_private_key(ec.SECP256R1())
    assert not is_signed(public_der(small), b"x", sign(small, b"x"))
    assert not is_signed(public_der(new_key()), b"x", sign(new_key(), b"x"))
    assert not is_signed(b"no key", b"x", sign(new_key(), b"x"))

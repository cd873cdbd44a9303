"""The configs that ship with fedquit, found by name: `fedquit simulate fashion-mnist`, `fedquit compare samples-10`.

What has [methods] is a comparison; its name is its file's, without "compare-" and ".toml".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedquit.errors import InputError, unknown
from fedquit.settings import load_settings_file

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class ShippedConfig:
    """A config that ships with fedquit.

    Attributes:
        command: the command that it is for: "simulate" or "compare".
        name: what that command calls it.
        about: what it is, in a sentence.
        path: its file.
    """

    command: str
    name: str
    about: str
    path: Path


def shipped_configs() -> list[ShippedConfig]:
    """Return all of them, those of simulate first.

    >>> sorted(config.name for config in shipped_configs() if config.command == "simulate")
    ['fashion-mnist', 'fashion-mnist-paper']
    """
    return sorted(_read(), key=lambda config: (config.command != "simulate", config.name))


def find_config(given: Path, command: str) -> Path:
    """Return the file that a person means: the one at that path, or the shipped one of that name.

    Args:
        given: a path, or a name; where there is both, the file wins.
        command: "simulate" or "compare".

    Raises:
        InputError: a name without a folder and an ending, and no config of that command is called so.
    """
    if given.is_file() or given.name != str(given) or given.suffix:
        return given
    every = shipped_configs()
    known = {config.name: config.path for config in every if config.command == command}
    if given.name in known:
        return known[given.name]
    other = next((config for config in every if config.name == given.name), None)
    if other is not None:
        raise InputError(f"{given.name} is a config of another command: fedquit {other.command} {given.name}")
    raise InputError(f"{unknown('config', given.name, known)}; or give the path of a TOML file")


def _read() -> Iterator[ShippedConfig]:
    for path in FOLDER.glob("*.toml"):
        document, name = load_settings_file(path), path.stem.removeprefix("compare-")
        comment = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()
        command = "compare" if "methods" in document else "simulate"
        yield ShippedConfig(command, name, document.get("title", comment.partition(":")[0]), path)

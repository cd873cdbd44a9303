"""TOML files of settings: read without what checks the settings, for processes that only wait."""

import tomllib
from pathlib import Path
from typing import Any

from fedquit.errors import InputError


def load_settings_file(path: Path) -> dict[str, Any]:
    """Return the keys of a TOML file, unchecked.

    Raises:
        InputError: the file is not there or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no such config file: {path}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give a TOML file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from None

"""All settings of a run together: read from flags, a TOML file or Flower's run config, checked against each other."""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any, Self

from pydantic import ValidationError

from fedquit.errors import InputError, unknown
from fedquit.settings.clients import Clients, check_clients
from fedquit.settings.data import Data
from fedquit.settings.evaluation import Evaluation
from fedquit.settings.forgetting import Forgetting, check_forgetting
from fedquit.settings.model import Model, check_model
from fedquit.settings.retired import without_retired
from fedquit.settings.seeds import Seeds
from fedquit.settings.setting import Group, Part, Scope, marks
from fedquit.settings.training import Training, check_training
from fedquit.settings.values import Scalar, as_text

GROUPS: tuple[type[Group], ...] = (Data, Model, Clients, Training, Forgetting, Evaluation, Seeds)
"""The groups in the order of `--help`."""

Key = tuple[tuple[str, Scalar], ...]
"""Settings as something hashable: (name, value), sorted by name."""


class Settings(Seeds, Evaluation, Forgetting, Training, Clients, Model, Data):
    """One run: which data, which federation, who is forgotten and how; defaults are the embedded example.

    It is each of its groups, so whatever needs one group alone takes it as `Training`, say, and is given this. Bases
    are named from the last to the first, for pydantic has the fields of the last base come first.

    >>> Settings(clients=4, forget="0,2;3").forget  # clients 0 and 2 at once, then client 3
    ((0, 2), (3,))
    """

    @classmethod
    def read(cls, given: Mapping[str, Any], source: str = "settings") -> Self:
        """Check kebab- or snake-case `given` and return the settings.

        Raises:
            InputError: an unknown key, a value out of range, or settings that exclude each other; `source`
                says where it came from.
        """
        try:
            settings = cls.model_validate(_known_once(given, cls.model_fields))
            settings._check()
        except ValidationError as error:
            raise InputError(f"{source}: {_reason(error)}") from None
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        return settings

    @classmethod
    def from_run_config(cls, config: Mapping[str, Scalar], clients: int | None = None) -> Self:
        """Return the settings in Flower's run config, where `out` and `folder` are the ServerApp's.

        Every message of a run has the same: they are checked once in a process.
        """
        with _LOCK:
            read = tuple(_READ)
        for known in read:
            if known.is_of(cls, config, clients):
                found: Self = known.settings
                return found
        given = {key: value for key, value in config.items() if key not in ("out", "folder")}
        settings = cls.read(given if clients is None else {**given, "clients": clients}, "run config")
        with _LOCK:
            _READ.append(_Read(cls, dict(config), clients, settings))
        return settings

    def _check(self) -> None:
        check_forgetting(self, self.clients)
        if self.recover == "oracle" and self.reference == "none":
            raise InputError("recover = oracle compares with a retrained model: set reference = retrain")
        check_model(self)
        check_training(self)
        check_clients(self)

    def run_config(self) -> dict[str, Scalar]:
        """Return the settings as Flower's run config: kebab-case keys, scalars only."""
        return {key: as_text(value) for key, value in self.model_dump(by_alias=True).items()}

    def key(self) -> Key:
        """Return the settings as something hashable, to cache by; `settings_of` is the way back."""
        return self._key

    @cached_property
    def _key(self) -> Key:
        return tuple(sorted(self.run_config().items()))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with other values for some fields; see pydantic, which would copy the key as well."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("_key", None)
        return copied


@dataclass(frozen=True, slots=True)
class _Read:
    """A run config that was read, and the settings in it."""

    cls: type[Settings]
    config: dict[str, Scalar]
    clients: int | None
    settings: Any

    def is_of(self, cls: type[Settings], config: Mapping[str, Scalar], clients: int | None) -> bool:
        """Say whether these are the settings of a config; types are compared too: 1, 1.0 and True are not the same."""
        return (
            (self.cls, self.clients) == (cls, clients)
            and self.config == config
            and list(map(type, self.config.values())) == list(map(type, config.values()))
        )


_READ: deque[_Read] = deque(maxlen=8)
_LOCK = Lock()  # a deque cannot be iterated while another thread appends


@lru_cache(maxsize=16)
def settings_of(key: Key) -> Settings:
    """Return the settings that `Settings.key` was made from.

    >>> settings_of(Settings(seed=3).key()).seed
    3
    """
    return Settings.read(dict(key))


def keys_of(*wanted: Part | Scope) -> tuple[str, ...]:
    """Return the kebab-case names of the settings of these parts and scopes, in order.

    >>> keys_of(Part.METHOD)
    ('method', 'teacher', 'method-settings', 'forget-clip', 'forget-noise', 'adopt')
    """
    return tuple(
        name.replace("_", "-")
        for name in Settings.model_fields
        if any(mark in wanted for mark in marks(Settings, name))
    )


def group_of(name: str) -> str | None:
    """Return the group that the field `name` is of; None: it is no setting.

    >>> group_of("lr"), group_of("json")
    ('Training', None)
    """
    return next((group.__name__ for group in GROUPS if name in group.model_fields), None)


def _known_once(given: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Return what is given by the names of fields, each known and given once."""
    given = without_retired(given)
    names = {name.replace("-", "_"): value for name, value in given.items()}
    if len(names) < len(given):
        twice = next(name for name in names if name in given and name.replace("_", "-") in given and "_" in name)
        raise InputError(f"{twice.replace('_', '-')} is given twice")
    for name in names:
        if name not in fields:
            raise unknown("key", name.replace("_", "-"), [field.replace("_", "-") for field in fields])
    return names


def _reason(error: ValidationError) -> str:
    """Say in one line what the first failed check wanted."""
    first = error.errors()[0]
    key = str(first["loc"][0]).replace("_", "-") if first["loc"] else "settings"
    wanted = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{key}: {wanted}, got {first['input']!r}"

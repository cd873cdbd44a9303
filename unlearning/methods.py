"""The plug-in interface: what a way of unlearning promises, and where the program finds it by name.

A method is a class, mostly a frozen dataclass whose fields are its settings, that carries `name`, `traits` and
`forget`. Its traits are data, so a server can refuse a request that the method cannot serve before anything runs.
Another package adds a method by an entry point in the group "fedquit.methods"; it is loaded only when asked for.
"""

import importlib.metadata
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, cast

from torch import Tensor, nn

from fedquit.errors import FedquitError, InputError, unknown
from fedquit.unlearning.samples import Samples

StateDict = Mapping[str, Tensor]
GROUP = "fedquit.methods"
GRANULARITIES = ("client", "sample", "class")
PLACES = ("device", "server")


@dataclass(frozen=True, slots=True)
class Traits:
    """What a method can do and what it needs, for programs to read.

    Attributes:
        granularities: what can be forgotten, out of "client", "sample", "class".
        runs_at: "device" (a `DeviceMethod`) or "server" (a `ServerMethod`).
        server_keeps: what the server must store for it: "nothing", "initial model", "checkpoints", "last updates", ...
        needs_device: whether the device that asks must be there when its request is served.
        secure_aggregation: whether training can stay under secure aggregation: no single training update is read.
        summary: one line for people.
        paper: where it comes from; "" if nowhere in particular.
        restarts: whether what follows is training from scratch, as long as the first one, and not recovery.
    """

    granularities: frozenset[str]
    runs_at: str
    server_keeps: str
    needs_device: bool
    secure_aggregation: bool
    summary: str
    paper: str = ""
    restarts: bool = False

    def __post_init__(self) -> None:
        for granularity in self.granularities:
            if granularity not in GRANULARITIES:
                raise unknown("granularity", granularity, GRANULARITIES)
        if self.runs_at not in PLACES:
            raise unknown("place to run", self.runs_at, PLACES)


@dataclass(frozen=True, slots=True)
class Kept:
    """What the server has stored for its methods; `initial` is the model before the first round."""

    initial: StateDict


class DeviceMethod(Protocol):
    """Unlearns on the device that asks, with the samples to forget at hand."""

    name: ClassVar[str]
    traits: ClassVar[Traits]

    def forget(self, model: nn.Module, samples: Samples, *, seed: int) -> list[float]:
        """Unlearn `samples` in place; return the mean loss of each epoch."""
        ...


class ServerMethod(Protocol):
    """Unlearns at the server, from the current model and what was kept."""

    name: ClassVar[str]
    traits: ClassVar[Traits]

    def forget(self, current: StateDict, kept: Kept) -> StateDict:
        """Return the model from which recovery starts."""
        ...


METHODS: dict[str, type[Any]] = {}
M = TypeVar("M", bound=type[Any])


def method(cls: M) -> M:
    """Register a method class under its `name`.

    Raises:
        InputError: the name is taken.

    >>> method(METHODS["continue"]).name  # again the same class: nothing changes
    'continue'
    """
    if METHODS.setdefault(cls.name, cls) is not cls:
        raise InputError(f"method '{cls.name}' is registered already, by {METHODS[cls.name].__module__}")
    return cls


def make_method(name: str, **settings: Any) -> DeviceMethod | ServerMethod:
    """Return the method `name` with these settings.

    Raises:
        InputError: no such method, no such setting, or a setting is missing or out of range.
        FedquitError: another package's method cannot be loaded.

    >>> make_method("fedquit", lr=1e-3).lr
    0.001
    """
    cls = METHODS[name] if name in METHODS else _load_third_party(name)
    parameters = inspect.signature(cls).parameters
    for given in settings:
        if not parameters:
            raise InputError(f"method '{name}' takes no settings; given: {given}")
        if given not in parameters:
            raise unknown(f"setting of method '{name}'", given, parameters)
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in settings]
    if missing:
        raise InputError(f"method '{name}' needs these settings: {', '.join(missing)}")
    made: DeviceMethod | ServerMethod = cls(**settings)
    return made


def device_method(name: str, **settings: Any) -> DeviceMethod:
    """Return a method that runs on the device that asks.

    Raises:
        InputError: as `make_method`, or the method runs at the server.

    >>> device_method("continue")
    Traceback (most recent call last):
    fedquit.errors.InputError: method 'continue' runs at the server, not on a device
    """
    return cast(DeviceMethod, _made_for("device", name, settings))


def server_method(name: str, **settings: Any) -> ServerMethod:
    """Return a method that runs at the server.

    Raises:
        InputError: as `make_method`, or the method runs on a device.

    >>> server_method("fedquit")
    Traceback (most recent call last):
    fedquit.errors.InputError: method 'fedquit' runs on a device, not at the server
    """
    return cast(ServerMethod, _made_for("server", name, settings))


def _made_for(place: str, name: str, settings: Mapping[str, Any]) -> DeviceMethod | ServerMethod:
    made, where = make_method(name, **settings), {"device": "on a device", "server": "at the server"}
    if made.traits.runs_at != place:
        raise InputError(f"method '{name}' runs {where[made.traits.runs_at]}, not {where[place]}")
    return made


def all_methods() -> dict[str, type[Any]]:
    """Return every method by name, those of other packages included; a built-in name wins over theirs.

    >>> sorted(all_methods()["continue"].traits.granularities)
    ['class', 'client', 'sample']
    """
    return {name: _load_third_party(name) for name in _third_party()} | METHODS


def _third_party() -> dict[str, importlib.metadata.EntryPoint]:
    points = importlib.metadata.entry_points(group=GROUP)
    return {point.name: point for point in points if point.name not in METHODS}


def _load_third_party(name: str) -> type[Any]:
    points = _third_party()
    if name not in points:
        raise unknown("method", name, [*METHODS, *points])
    try:
        cls: type[Any] = points[name].load()
    except Exception as error:  # whatever a stranger's import raises
        raise FedquitError(f"method '{name}' ({points[name].value}) cannot be loaded: {error!r}") from error
    if not (isinstance(getattr(cls, "traits", None), Traits) and callable(getattr(cls, "forget", None))):
        raise FedquitError(f"method '{name}' ({points[name].value}) is no method: it lacks `traits` or `forget`")
    return cls

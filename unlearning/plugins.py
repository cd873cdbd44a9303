"""Classes that are found by name: our own, and those that other packages name in their entry points.

What another package names is loaded only when it is asked for; a name of ours wins over theirs.
"""

import importlib.metadata
from typing import Any, Generic, TypeVar, cast

from fedquit.errors import FedquitError, InputError, unknown
from fedquit.unlearning.setting_checks import construct

P = TypeVar("P")


class Plugins(Generic[P]):
    """Classes on top of `base` by name, each with `name` and `traits`.

    Args:
        kind: what they are, for people.
        base: what each derives from.
        traits: of what class the `traits` of each are.

    Attributes:
        ours: those of this package.
    """

    def __init__(self, kind: str, base: type[P], traits: type) -> None:
        self.kind, self.group = kind, f"fedquit.{kind}s"
        self.ours: dict[str, type[P]] = {}
        self._base, self._traits = base, traits

    def add(self, cls: Any) -> None:
        """Add a class of ours; the same one again changes nothing.

        Raises:
            InputError: its name is taken.
        """
        if self.ours.setdefault(cls.name, cls) is not cls:
            raise InputError(f"{self.kind} '{cls.name}' is registered already, by {self.ours[cls.name].__module__}")

    def make(self, name: str, settings: dict[str, Any]) -> P:
        """Return one with these settings.

        Raises:
            InputError: no such name, no such setting, or a setting is missing or out of range.
            FedquitError: another package's cannot be loaded.
        """
        cls = self.ours[name] if name in self.ours else self._load(name)
        return construct(f"{self.kind} '{name}'", cls, settings)

    def all(self) -> dict[str, type[P]]:
        """Return every class by name, those of other packages included."""
        return {name: self._load(name) for name in self._theirs()} | self.ours

    def _theirs(self) -> dict[str, importlib.metadata.EntryPoint]:
        points = importlib.metadata.entry_points(group=self.group)
        return {point.name: point for point in points if point.name not in self.ours}

    def _load(self, name: str) -> type[P]:
        points = self._theirs()
        if name not in points:
            raise unknown(self.kind, name, [*self.ours, *points])
        where = f"{self.kind} '{name}' ({points[name].value})"
        try:
            cls: Any = points[name].load()
        except Exception as error:  # whatever a stranger's import raises
            raise FedquitError(f"{where} cannot be loaded: {error!r}") from error
        fits = isinstance(cls, type) and issubclass(cls, self._base)
        if not fits or not isinstance(getattr(cls, "traits", None), self._traits):
            base = self._base.__name__
            raise FedquitError(f"{where} is no {self.kind}: derive it from {base}, with `traits`")
        return cast(type[P], cls)

"""The bounds that a device's owner sets on the server's settings: the table [bounds] of device.toml.

[bounds]
lr = 0.5                        # largest learning rate, of training and of a method
local-epochs = 5                # most passes over the data in one message
objective = ["fedavg", "fedprox"]
model = ["mlp", "my_models.nets:small"]
method = ["fedquit"]

A setting that is not named is not bounded, with one exception: a model of the form `package.module:factory` calls code
that is installed on the device, so it must be named.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from fedquit.errors import InputError, OutOfBoundsError, unknown
from fedquit.settings import Settings

NUMBERS, LISTS = ("lr", "local-epochs"), ("objective", "model", "method")
PULL = "proximal-mu"
"""In a message of Flower's FedProx: the device trains with objective fedprox, whatever the run's is."""
WHERE = "[bounds] in device.toml"


@dataclass(frozen=True, slots=True)
class DeviceBounds:
    """The checked table.

    Attributes:
        most: "lr" and "local-epochs" -> largest value.
        named: "objective", "model" and "method" -> allowed values.
    """

    most: Mapping[str, float]
    named: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, table: Mapping[str, Any], source: str) -> Self:
        """Return what the table says.

        Raises:
            InputError: naming the key.

        >>> DeviceBounds.read({"lr": 0.5, "model": ["mlp"]}, "device.toml").named
        {'model': ('mlp',)}
        """
        for key, value in table.items():
            if key not in (*NUMBERS, *LISTS):
                raise unknown(f"key in [bounds] of {source}", key, (*NUMBERS, *LISTS))
            number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
            names = isinstance(value, list) and all(isinstance(name, str) for name in value)
            if not (number if key in NUMBERS else names):
                wanted = "a number above 0" if key in NUMBERS else 'a list of names such as ["a", "b"]'
                raise InputError(f"{source}: [bounds] {key} is {value!r}; it must be {wanted}")
        return cls(
            {key: float(table[key]) for key in NUMBERS if key in table},
            {key: tuple(table[key]) for key in LISTS if key in table},
        )

    def check(self, settings: Settings, config: Mapping[str, Any]) -> None:
        """Refuse a message whose settings are outside the bounds.

        Args:
            settings: of the run, with what the message changes of them.
            config: what the message says besides, such as the round's `lr`.

        Raises:
            OutOfBoundsError: naming the setting, its value and the bound.
        """
        method = settings.method_options()
        for key, values in (
            ("lr", [settings.lr, config.get("lr", 0), method.get("lr", 0)]),
            ("local-epochs", [settings.local_epochs, config.get("epochs", 0), method.get("epochs", 0)]),
        ):
            for value in values:
                self._check_number(key, value)
        for key in LISTS:
            self._check_name(key, getattr(settings, key))
        if settings.mentee:
            self._check_name("model", settings.mentee)
        if PULL in config:
            self._check_name("objective", "fedprox")

    def _check_number(self, key: str, value: object) -> None:
        most = self.most.get(key)
        if most is None or not isinstance(value, int | float):  # "auto" is the method's own small step
            return
        if not abs(value) <= most:  # NaN is beyond every bound, and a step backwards is as long
            raise OutOfBoundsError(f"the server sets {key} to {value}, and this device takes at most {most:g}: {WHERE}")

    def _check_name(self, key: str, value: str) -> None:
        allowed = self.named.get(key)
        if allowed is None and not (key == "model" and ":" in value):
            return
        if value not in (allowed or ()):
            takes = f"takes {', '.join(allowed)}" if allowed else "takes none that it does not name"
            raise OutOfBoundsError(f"the server sets {key} to '{value}', and this device {takes}: {key} of {WHERE}")

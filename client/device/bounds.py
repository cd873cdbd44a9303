"""The bounds that a device's owner sets on the server's settings: the table [bounds] of device.toml.

[bounds]
lr = 0.5                        # largest learning rate, of training and of a method
local-epochs = 5                # most passes over the data in one message
objective = ["fedavg", "fedprox"]
model = ["mlp", "my_models.nets:small"]
method = ["fedquit"]
forget-clip = 0.1               # longest unlearning step that this device sends
forget-noise = 4.0              # least noise on it, as a multiple of forget-clip

With `forget-noise` the device sends one noisy model for a request, the number of the samples and a salted digest, and
nothing else that depends on them: noise of several models would average out, and a loss tells as much as a model. The
samples are retired all the same.

FedQUIT's `lr=auto` may pass over the samples as often as it takes steps, so that it needs `local-epochs` not bounded.

A setting that is not named is not bounded, with one exception: a model of the form `package.module:factory` calls code
that is installed on the device, so it must be named.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from fedquit.errors import InputError, OutOfBoundsError, unknown
from fedquit.settings import Settings

MOST, LISTS = ("lr", "local-epochs"), ("objective", "model", "method")
CLIP, NOISE = "forget-clip", "forget-noise"
NUMBERS = (*MOST, CLIP, NOISE)
PULL = "proximal-mu"
"""In a message of Flower's FedProx: the device trains with objective fedprox, whatever the run's is."""
WHERE = "[bounds] in device.toml"


@dataclass(frozen=True, slots=True)
class DeviceBounds:
    """The checked table.

    Attributes:
        most: "lr" and "local-epochs" -> largest value.
        named: "objective", "model" and "method" -> allowed values.
        clip: longest unlearning step; None: any.
        noise: least noise on it, as a multiple of the clip; 0: none is needed.
    """

    most: Mapping[str, float]
    named: Mapping[str, tuple[str, ...]]
    clip: float | None = None
    noise: float = 0.0

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
            {key: float(table[key]) for key in MOST if key in table},
            {key: tuple(table[key]) for key in LISTS if key in table},
            float(table[CLIP]) if CLIP in table else None,
            float(table.get(NOISE, 0.0)),
        )

    def check(self, settings: Settings, config: Mapping[str, Any]) -> None:
        """Refuse a message whose settings are outside the bounds.

        Args:
            settings: of the run, with what the message changes of them.
            config: what the message says besides, such as the round's `lr`.

        Raises:
            OutOfBoundsError: naming the setting, its value and the bound.
        """
        for key in LISTS:
            self._check_name(key, getattr(settings, key))
        if settings.mentee:
            self._check_name("model", settings.mentee)
        if PULL in config:
            self._check_name("objective", "fedprox")
        if self.most:
            self._check_numbers(settings, config)

    def _check_numbers(self, settings: Settings, config: Mapping[str, Any]) -> None:
        """Refuse a learning rate or a number of epochs beyond the bounds, of training or of the method."""
        method = _method_numbers(settings)
        for key, values in (
            ("lr", [settings.lr, config.get("lr", 0), method["lr"]]),
            ("local-epochs", [settings.local_epochs, config.get("epochs", 0), method["epochs"]]),
        ):
            for value in values:
                self._check_number(key, value)
        if method["lr"] == "auto":
            self._check_auto()

    def check_reply(self, settings: Settings, *, again: bool) -> None:
        """Refuse to send an unlearned model with less protection than the device's owner demands.

        Args:
            settings: of the run, with what the message changes of them.
            again: whether another model than the stored one was sent for the same request before.

        Raises:
            OutOfBoundsError: naming the setting, its value and the bound.

        >>> bounds = DeviceBounds.read({"forget-noise": 4.0}, "device.toml")
        >>> bounds.check_reply(Settings(forget_clip=0.1, forget_noise=4.0), again=False)
        """
        clip, noise = settings.forget_clip, settings.forget_noise
        if self.clip is not None and not 0 < clip <= self.clip:
            raise OutOfBoundsError(
                f"the server sets {CLIP} to {clip:g} (0: no clipping), and this device takes at most {self.clip:g}: "
                f"{WHERE}"
            )
        if noise < self.noise:
            raise OutOfBoundsError(
                f"the server sets {NOISE} to {noise:g}, and this device takes at least {self.noise:g}: {WHERE}"
            )
        if self.noise and again:
            raise OutOfBoundsError(
                f"this device has already sent a model for this request, and sends one only: {NOISE}, {WHERE}"
            )

    def check_report(self) -> None:
        """Refuse to report metrics on forgotten samples, where the owner wants noise on all that reveals them.

        Raises:
            OutOfBoundsError: naming the bound.
        """
        if self.noise:
            raise OutOfBoundsError(f"this device reports no metrics on samples that it forgot: {NOISE}, {WHERE}")

    def _check_number(self, key: str, value: object) -> None:
        most = self.most.get(key)
        if value == "auto":
            from fedquit.unlearning.methods.fedquit import AUTO  # imports PyTorch

            value = max(AUTO.values())
        if most is None or not isinstance(value, int | float):
            return
        if not abs(value) <= most:  # NaN is beyond every bound, and a step backwards is as long
            raise OutOfBoundsError(f"the server sets {key} to {value}, and this device takes at most {most:g}: {WHERE}")

    def _check_auto(self) -> None:
        from fedquit.unlearning.methods.fedquit import MOST_STEPS  # imports PyTorch

        most = self.most.get("local-epochs")
        if most is not None and most < MOST_STEPS:
            raise OutOfBoundsError(
                f"the server sets lr to auto, which may take {MOST_STEPS} passes over the data, and this device takes "
                f"at most {most:g}: set lr to a number, or have the owner not bound local-epochs: {WHERE}"
            )

    def _check_name(self, key: str, value: str) -> None:
        allowed = self.named.get(key)
        if allowed is None and not (key == "model" and ":" in value):
            return
        if value not in (allowed or ()):
            takes = f"takes {', '.join(allowed)}" if allowed else "takes none that it does not name"
            raise OutOfBoundsError(f"the server sets {key} to {value!r}, and this device {takes}: {key} of {WHERE}")


def _method_numbers(settings: Settings) -> dict[str, object]:
    """Return the learning rate and the epochs of the run's method, whether they are set or its defaults; 0: none.

    Of a method that is not installed here, and so cannot run here, those that are set.
    """
    from fedquit.unlearning.methods.base import make_method  # imports PyTorch

    options = settings.method_options()
    try:
        made = make_method(settings.method, **options)
    except InputError:
        return {name: options.get(name, 0) for name in ("lr", "epochs")}
    made = made.as_in_run(epochs=settings.local_epochs, batch_size=settings.batch_size)
    return {name: getattr(made, name, 0) for name in ("lr", "epochs")}

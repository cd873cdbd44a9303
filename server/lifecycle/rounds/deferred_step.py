"""Deferred adoption: other devices get the unlearning step only as part of the sum with a round of their own.

Adopted directly, the model f that the asking device returned is sent to the others in the first round of recovery, and
whoever still has g, the model before, can infer from f - g what was forgotten. Deferred, they train that round from g,
and the server adds f - g, as the guard admitted it, to the model of the round. It costs the same number of bytes, and f
itself is sent to nobody. The server sees f in either case.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from fedquit.client.training.build_objective import objective_of
from fedquit.errors import InputError
from fedquit.server.lifecycle.rounds.train_round import Trained
from fedquit.settings import Settings
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.tensors.arithmetic import difference, moved
from fedquit.unlearning.tensors.convert import Arrays, StateDict, arrays_of, tensors_of


def is_deferred(adopt: str, method: Method) -> bool:
    """Say whether a method's model is added to the next round instead of being sent to its devices.

    Only a short step can be added to a round that started from the previous model.

    >>> from fedquit.unlearning import make_method
    >>> is_deferred("deferred", make_method("fedquit")), is_deferred("deferred", make_method("negate"))
    (True, False)
    """
    return adopt == "deferred" and method.traits.step == "result"


def check_adopt(settings: Settings, method: Method) -> None:
    """Refuse deferred adoption where nothing can be added to a round.

    Raises:
        InputError: the method's model is far from the one before, or devices share no model.

    >>> from fedquit.unlearning import make_method
    >>> check_adopt(Settings(adopt="deferred"), make_method("fedquit"))
    """
    if settings.adopt != "deferred":
        return
    if not is_deferred(settings.adopt, method):
        raise InputError(
            f"adopt = deferred adds a short step to a round, and method '{method.name}' makes another model; "
            "set adopt = direct, or choose a method that runs on the device, such as fedquit"
        )
    if objective_of(settings).needs().shares != "model":
        raise InputError(f"adopt = deferred needs a global model; objective '{settings.objective}' has none")


@dataclass(frozen=True, slots=True)
class DeferredStep:
    """An unlearning step that waits for a round.

    Attributes:
        before: the model before the request, which the devices of the round receive.
        unlearned: the model that the method returned.
        names: the entries that are parameters; the others, such as running statistics, are those of the round.
    """

    before: StateDict
    unlearned: StateDict
    names: Collection[str]

    def sent(self) -> Arrays:
        """Return the model that the devices of the round receive."""
        return arrays_of(self.before)

    def added(self, done: Trained) -> Trained:
        """Return the round with the step added to its model; after a round without a usable model the step still waits.

        >>> import torch
        >>> before, unlearned = {"w": torch.tensor([1.0])}, {"w": torch.tensor([0.5])}
        >>> trained = Trained(arrays_of({"w": torch.tensor([3.0])}), None, {}, 0, 0.0, 0.0, 0.0)
        >>> DeferredStep(before, unlearned, {"w"}).added(trained).arrays["w"]
        array([2.5], dtype=float32)
        """
        if not done.adopted:
            return replace(done, arrays=arrays_of(self.unlearned))
        step = difference(self.unlearned, self.before, self.names)
        return replace(done, arrays=arrays_of(moved(tensors_of(done.arrays), step)))

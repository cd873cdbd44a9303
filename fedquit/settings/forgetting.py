"""Who is forgotten, by which method, and when recovery ends."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from fedquit.errors import InputError
from fedquit.settings.setting import Group, Part, Scope, setting
from fedquit.settings.values import Options, Requests, Scalar


class Forgetting(Group):
    """The requests, the method, the stop rule of recovery, and the training history kept for them."""

    forget: Annotated[
        Requests,
        setting(
            "clients that ask to be forgotten: 0, or 0,3 at once, or 0;3 one after the other",
            Part.REQUEST,
            Scope.SIMULATION,
            min_length=1,
        ),
    ] = ((0,),)
    granularity: Annotated[
        Literal["client", "sample", "class"],
        setting(
            "what is forgotten: all data of those clients, some of their samples, or a class on every client",
            Part.REQUEST,
            Scope.SIMULATION,
        ),
    ] = "client"
    forget_share: Annotated[
        float,
        setting(
            "granularity sample: the share of each client's samples, drawn by the seed",
            Part.REQUEST,
            Scope.SIMULATION,
            gt=0,
            lt=1,
        ),
    ] = 0.1
    forget_samples: Annotated[
        str,
        setting(
            "granularity sample: JSON file of client -> training indices, or package.module:predicate, "
            "in place of a share",
            Part.REQUEST,
            Scope.SIMULATION,
        ),
    ] = ""
    forget_class: Annotated[
        Requests,
        BeforeValidator(lambda given: () if given == "" else given),
        setting(
            "granularity class: the labels to forget, such as 3, or 3,5 at once, or 3;5", Part.REQUEST, Scope.SIMULATION
        ),
    ] = ()

    method: Annotated[str, setting("a name that `fedquit methods` lists", Part.METHOD, Scope.FORGETTING)] = "fedquit"
    teacher: Annotated[
        str,
        setting("FedQUIT's virtual teacher: min, fixed, entropy, incompetent, ...", Part.METHOD, Scope.FORGETTING),
    ] = "min"
    method_settings: Annotated[
        Options,
        setting("the method's own settings, such as lr=0.001,epochs=2", Part.METHOD, Scope.FORGETTING),
    ] = {}

    forget_clip: Annotated[
        float,
        setting(
            "the device clips its unlearning step to this norm before it sends the model; 0: no clipping",
            Part.METHOD,
            Scope.FORGETTING,
            ge=0,
        ),
    ] = 0.0
    forget_noise: Annotated[
        float,
        setting(
            "the device then adds Gaussian noise: standard deviation for each parameter, as a multiple of forget-clip",
            Part.METHOD,
            Scope.FORGETTING,
            ge=0,
        ),
    ] = 0.0

    adopt: Annotated[
        Literal["direct", "deferred"],
        setting(
            "how other devices get the unlearned model: direct sends it to them; deferred adds the unlearning step to "
            "a round that they train from the previous model, which reveals less of what was forgotten",
            Part.METHOD,
            Scope.FORGETTING,
        ),
    ] = "direct"
    guard: Annotated[
        Literal["refuse", "clip", "blend", "adopt"],
        setting(
            "what to do with a model outside the bounds of recent rounds: refuse it, clip its step, blend in a share, "
            "or adopt it",
            Part.AFTER_TRAINING,
            Scope.FORGETTING,
        ),
    ] = "refuse"
    blend: Annotated[
        float,
        setting("guard blend: the share of the method's model", Part.AFTER_TRAINING, Scope.FORGETTING, gt=0, le=1),
    ] = 0.5

    recover: Annotated[
        Literal["utility", "oracle", "budget"], setting("when recovery stops", Part.STOP_RULE, Scope.SIMULATION)
    ] = "utility"
    tolerance: Annotated[
        float,
        setting(
            "utility: how far below the old held-out accuracy is near enough",
            Part.STOP_RULE,
            Scope.FORGETTING,
            ge=0,
            lt=1,
        ),
    ] = 0.01
    patience: Annotated[
        int, setting("utility: number of consecutive rounds", Part.STOP_RULE, Scope.FORGETTING, ge=1)
    ] = 1
    recover_rounds: Annotated[
        int,
        setting("rounds of recovery: at most, or exactly with recover=budget", Part.STOP_RULE, Scope.FORGETTING, ge=1),
    ] = 30
    recover_bytes: Annotated[
        int,
        setting("budget: stop recovery at this many bytes; 0: no limit", Part.STOP_RULE, Scope.SIMULATION, ge=0),
    ] = 0

    budget: Annotated[
        int,
        setting(
            "after recovery, continue until the bytes of this many rounds are spent on the request, forgetting "
            "included: methods at equal cost, and what resurfaces; 0: end with recovery",
            Part.AFTER_TRAINING,
            Scope.SIMULATION,
            ge=0,
        ),
    ] = 0
    history_bytes: Annotated[
        int,
        setting(
            "bytes of training history kept on disk, at most",
            Part.AFTER_TRAINING,
            Scope.TRAINING,
            ge=0,
        ),
    ] = 20_000_000_000

    @property
    def num_requests(self) -> int:
        """The number of requests, which come one after the other."""
        return len(self.forget_class if self.granularity == "class" else self.forget)

    def method_options(self) -> dict[str, Scalar]:
        """Return what the method is built with; `teacher` is FedQUIT's."""
        return (
            {"teacher": self.teacher, **self.method_settings}
            if self.method == "fedquit"
            else dict(self.method_settings)
        )


def check_forgetting(asked: Forgetting, clients: int) -> None:
    """Refuse requests that cannot be among this many clients, and settings that exclude each other.

    Raises:
        InputError: naming the settings.
    """
    _check_who_asks(asked, clients)
    if (asked.granularity == "class") != bool(asked.forget_class):
        raise InputError("granularity = class and forget-class = LABEL go together")
    if asked.forget_noise and not asked.forget_clip:
        raise InputError("forget-noise is a multiple of forget-clip: set forget-clip too")
    if asked.forget_samples and asked.granularity != "sample":
        raise InputError("forget-samples needs granularity = sample")
    if asked.recover == "oracle" and asked.num_requests > 1:
        raise InputError("recover = oracle knows the model retrained after the last request only")
    if asked.method != "fedquit" and asked.teacher != "min":
        raise InputError(f"teacher is a setting of method fedquit, not of {asked.method}")


def _check_who_asks(asked: Forgetting, clients: int) -> None:
    named = [client for request in asked.forget for client in request]
    beyond = [client for client in named if client >= clients]
    if beyond:
        raise InputError(f"forget: there is no client {beyond[0]}; clients are 0..{clients - 1} (clients = {clients})")
    if asked.granularity == "client" and len(set(named)) < len(named):
        twice = next(client for client in named if named.count(client) > 1)
        raise InputError(f"forget: client {twice} asks to be forgotten twice")
    if asked.granularity == "client" and len(named) == clients:
        raise InputError(f"forget: all {clients} clients would leave; at least one must stay")

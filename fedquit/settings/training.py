"""How a round of training goes: at the clients, at the server, and on the way between them."""

from typing import Annotated, Literal

from fedquit.errors import InputError
from fedquit.settings.setting import Group, Part, Scope, setting
from fedquit.settings.values import Options


class Training(Group):
    """Local SGD and its objective, the strategy, differential privacy, and compression."""

    rounds: Annotated[int, setting("rounds of training before the request", Part.TRAINING, Scope.SIMULATION, ge=1)] = 20
    fraction: Annotated[
        float, setting("share of clients that train in a round", Part.TRAINING, Scope.TRAINING, gt=0, le=1)
    ] = 1.0
    local_epochs: Annotated[int, setting("epochs a client trains in a round", Part.TRAINING, Scope.TRAINING, ge=1)] = 1
    batch_size: Annotated[int, setting("samples in a batch", Part.TRAINING, Scope.TRAINING, ge=1)] = 32
    lr: Annotated[float, setting("learning rate of local SGD", Part.TRAINING, Scope.TRAINING, gt=0)] = 0.1
    momentum: Annotated[float, setting("momentum of local SGD", Part.TRAINING, Scope.TRAINING, ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, setting("weight decay of local SGD", Part.TRAINING, Scope.TRAINING, ge=0)] = 0.0
    lr_decay: Annotated[
        float, setting("factor on the learning rate after every round", Part.TRAINING, Scope.TRAINING, gt=0, le=1)
    ] = 1.0

    objective: Annotated[str, setting("a name that `fedquit objectives` lists", Part.TRAINING, Scope.TRAINING)] = (
        "fedavg"
    )
    objective_settings: Annotated[
        Options,
        setting("the objective's own settings, such as mu=0.1 for fedprox", Part.TRAINING, Scope.TRAINING),
    ] = {}
    gate: Annotated[
        str,
        setting(
            "which samples a teacher is imitated on: speculative or adaptive; empty: all", Part.TRAINING, Scope.TRAINING
        ),
    ] = ""
    gate_settings: Annotated[
        Options, setting("the gate's own settings, such as top_k=1,beta=0.1", Part.TRAINING, Scope.TRAINING)
    ] = {}

    strategy: Annotated[
        str, setting("how models are aggregated: a name that `fedquit strategies` lists", Part.TRAINING, Scope.TRAINING)
    ] = "fedavg"
    strategy_settings: Annotated[
        Options,
        setting("the strategy's own settings, such as eta=0.01 for fedadam", Part.TRAINING, Scope.TRAINING),
    ] = {}
    recover_strategy: Annotated[
        str,
        setting(
            "the same for rounds of recovery, such as fedtrimmedavg; empty: as in training",
            Part.AFTER_TRAINING,
            Scope.TRAINING,
        ),
    ] = ""
    recover_strategy_settings: Annotated[
        Options, setting("the recovery strategy's own settings", Part.AFTER_TRAINING, Scope.TRAINING)
    ] = {}
    dp: Annotated[
        Literal["", "server-fixed", "server-adaptive", "client-fixed", "client-adaptive"],
        setting(
            "differential privacy of the mean: where to clip, and to which norm; empty: none",
            Part.TRAINING,
            Scope.TRAINING,
        ),
    ] = ""
    dp_settings: Annotated[
        Options,
        setting("its settings, such as noise_multiplier=0.5,clipping_norm=1", Part.TRAINING, Scope.TRAINING),
    ] = {}

    weight_cap: Annotated[
        float,
        setting(
            "limit each of n clients to the smaller of 1/2 and this / n of a round's weights, and bound the sample "
            "counts they report; 0: no bound",
            Part.TRAINING,
            Scope.TRAINING,
            ge=0,
        ),
    ] = 0.0
    clip_steps: Annotated[
        float,
        setting(
            "shorten a client's step to this many times the usual length, the upper quartile of its round or of those "
            "before; 0: no clipping",
            Part.TRAINING,
            Scope.TRAINING,
            ge=0,
        ),
    ] = 0.0
    accuracy_floor: Annotated[
        float,
        setting(
            "if a round's accuracy on the server's validation set falls below this share of the previous accuracy, "
            "repeat it without the client that caused it, or do not adopt it; 0: no floor",
            Part.TRAINING,
            Scope.TRAINING,
            ge=0,
            lt=1,
        ),
    ] = 0.0

    device_folder: Annotated[
        str,
        setting(
            "where a device keeps what its objective needs from round to round; a node's own device-folder "
            "wins; fedquit simulate: in the run's folder",
            Part.PLACE,
            Scope.TRAINING,
        ),
    ] = ""
    compress_up: Annotated[
        str,
        setting(
            "codecs of what devices send, such as int8 or top-k+fp16+zstd; empty: none", Part.TRAINING, Scope.TRAINING
        ),
    ] = ""
    compress_down: Annotated[
        str,
        setting(
            "codecs of the model that devices get, such as fp16 or svd+int8+zstd; empty: none",
            Part.TRAINING,
            Scope.TRAINING,
        ),
    ] = ""
    compress_settings: Annotated[
        Options,
        setting(
            "the codecs' own settings, such as share=0.05,level=9; `fedquit codecs` lists them",
            Part.TRAINING,
            Scope.TRAINING,
        ),
    ] = {}


def check_training(training: Training) -> None:
    """Refuse limits on single clients that cannot be.

    Raises:
        InputError: saying which.

    >>> check_training(Training(weight_cap=0.5))
    Traceback (most recent call last):
    fedquit.errors.InputError: weight-cap is 0.5; it must be 1 or more, or 0 for no cap
    """
    if 0 < training.weight_cap < 1:
        raise InputError(f"weight-cap is {training.weight_cap:g}; it must be 1 or more, or 0 for no cap")
    if training.dp and training.clip_steps:
        raise InputError(f"clip-steps: dp = {training.dp} clips steps by itself; leave it out")

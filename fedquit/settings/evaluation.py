"""What the models of a simulation are compared with, and measured on."""

from typing import Annotated, Literal

from fedquit.settings.setting import Group, Part, Scope, setting


class Evaluation(Group):
    """Retrained models to compare with, and the samples that decide when to stop."""

    reference: Annotated[
        Literal["retrain", "none"],
        setting("train models without the clients, to compare with", Part.AFTER_TRAINING, Scope.SIMULATION),
    ] = "retrain"
    references: Annotated[
        int,
        setting(
            "retrained models of different seeds; a verdict needs five",
            Part.AFTER_TRAINING,
            Scope.SIMULATION,
            ge=1,
            le=100,
        ),
    ] = 2
    holdout: Annotated[
        int,
        setting(
            "test samples the server keeps for stop rules, at most half; results use the others",
            Part.TRAINING,
            Scope.SIMULATION,
            ge=1,
        ),
    ] = 2000

"""The seeds that every random choice of a run is derived from."""

from typing import Annotated

from fedquit.settings.setting import Group, Part, Scope, setting


class Seeds(Group):
    """One seed for all, and two that can be held while it changes."""

    seed: Annotated[int, setting("decides the run, bit for bit", Part.TRAINING, Scope.TRAINING, ge=0, lt=2**31)] = 0
    split_seed: Annotated[
        int,
        setting(
            "decides the split and the samples to forget; -1: as seed",
            Part.TRAINING,
            Scope.SIMULATION,
            ge=-1,
            lt=2**31,
        ),
    ] = -1
    model_seed: Annotated[
        int,
        setting("decides the initial weights; -1: as seed", Part.TRAINING, Scope.TRAINING, ge=-1, lt=2**31),
    ] = -1

    @property
    def seed_of_split(self) -> int:
        """What decides the split, and which samples are drawn to be forgotten."""
        return self.seed if self.split_seed < 0 else self.split_seed

    @property
    def seed_of_model(self) -> int:
        """What decides the initial weights."""
        return self.seed if self.model_seed < 0 else self.model_seed

"""Which data a simulation is about."""

from typing import Annotated

from fedquit.settings.setting import Group, Part, Scope, setting


class Data(Group):
    """The data set, where it is looked for, and how much of it is used."""

    dataset: Annotated[
        str,
        setting(
            "digits, digits-wrong-labels, digits-inverted, digits-own-classes, digits-backdoor, fashion-mnist, mnist, "
            "cifar10, cifar100, a folder, FILE.npz or package.module:factory",
            Part.TRAINING,
            Scope.SIMULATION,
        ),
    ] = "digits"
    data_root: Annotated[str, setting("folder to look for data in first", Part.PLACE, Scope.SIMULATION)] = ""
    download: Annotated[bool, setting("allow downloading data that is not found", Part.PLACE, Scope.SIMULATION)] = False
    image_size: Annotated[
        int,
        setting("resize images of a folder to this many pixels; 0: as they are", Part.TRAINING, Scope.TRAINING, ge=0),
    ] = 0
    samples: Annotated[
        int, setting("use this many training samples; 0: all", Part.TRAINING, Scope.SIMULATION, ge=0)
    ] = 0

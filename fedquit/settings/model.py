"""Which model is trained, and the form of its inputs and classes."""

from typing import Annotated, Literal

from fedquit.errors import InputError
from fedquit.settings.setting import Group, Part, Scope, setting
from fedquit.settings.values import Lengths, Names


class Model(Group):
    """The model that devices share, models of their own, and what a model takes and gives."""

    model: Annotated[
        str,
        setting(
            "mlp, cnn, resnet18, a torchvision classifier or package.module:factory", Part.TRAINING, Scope.TRAINING
        ),
    ] = "cnn"
    init: Annotated[
        Literal["default", "glorot"],
        setting(
            "initial weights: the model's own, or Glorot uniform ones and biases of zero, as in Keras",
            Part.TRAINING,
            Scope.TRAINING,
        ),
    ] = "default"
    models: Annotated[
        str,
        setting(
            "personalised models: cnn,mlp in turn, or a JSON file of client -> model; empty: model",
            Part.TRAINING,
            Scope.SIMULATION,
        ),
    ] = ""
    mentee: Annotated[
        str, setting("objective fedkd: the small model that all devices share", Part.TRAINING, Scope.SIMULATION)
    ] = ""
    classes: Annotated[
        Names,
        setting(
            "how many classes there are, or their names in order, such as ill,well; empty: the data says",
            Part.TRAINING,
            Scope.TRAINING,
            pattern=r"^$|^[1-9]\d*$|^[^,]+(,[^,]+)+$",
        ),
    ] = ""
    input_shape: Annotated[
        Lengths,
        setting(
            "channels, height and width of an input, such as 1x28x28; empty: the data says",
            Part.TRAINING,
            Scope.TRAINING,
            pattern=r"^$|^[1-9]\d*x[1-9]\d*x[1-9]\d*$",
        ),
    ] = ""


def check_model(model: Model) -> None:
    """Refuse half of a form.

    Raises:
        InputError: naming the settings.
    """
    if bool(model.classes) != bool(model.input_shape):
        raise InputError("classes and input-shape go together: they stand in for data that is elsewhere")


def num_classes(classes: str) -> int:
    """Return how many classes a setting `classes` names; 0: it leaves them to the data.

    >>> num_classes("10"), num_classes("ill,well"), num_classes("")
    (10, 2, 0)
    """
    return int(classes) if classes.isdecimal() else len(classes.split(",")) * bool(classes)

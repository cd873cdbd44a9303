"""How many clients a simulation has, and how the data is split among them."""

from typing import Annotated, Literal

from fedquit.errors import InputError
from fedquit.settings.setting import Group, Part, Scope, setting


class Clients(Group):
    """The number of clients, and the file or the scheme that says who holds what."""

    clients: Annotated[int, setting("number of clients", Part.TRAINING, Scope.SIMULATION, ge=1)] = 5
    partition: Annotated[
        str,
        setting("JSON file of client -> training indices, in place of a scheme", Part.PLACE, Scope.SIMULATION),
    ] = ""
    scheme: Annotated[
        Literal["dirichlet", "iid", "shards", "pathological", "column"],
        setting("how the data is split", Part.TRAINING, Scope.SIMULATION),
    ] = "dirichlet"
    alpha: Annotated[
        float, setting("Dirichlet concentration; smaller is more skewed", Part.TRAINING, Scope.SIMULATION, gt=0)
    ] = 0.1
    shards_per_client: Annotated[int, setting("for scheme shards", Part.TRAINING, Scope.SIMULATION, ge=1)] = 2
    classes_per_client: Annotated[int, setting("for scheme pathological", Part.TRAINING, Scope.SIMULATION, ge=1)] = 2
    column: Annotated[
        str, setting("for scheme column: the column that names the client", Part.TRAINING, Scope.SIMULATION)
    ] = ""


def check_clients(clients: Clients) -> None:
    """Refuse a scheme without what it needs.

    Raises:
        InputError: naming the settings.
    """
    if clients.scheme == "column" and not clients.column:
        raise InputError("scheme = column needs column = NAME")

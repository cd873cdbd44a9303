"""What a deployed federation is told: server.toml, checked once, for the coordinator, the services and the checks.

name = "clinics"
[server]      addresses, the ledger
[training]    settings of `fedquit simulate` that are about the model and its training
[schedule]    when to train
[forgetting]  by which method, by when, and what to do where it cannot be done
[asking]      how many requests are taken
[trusted]     data that the server measures models on, if it has any
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from fedquit.client.requests.signed_request import LONGEST_FRESH
from fedquit.errors import InputError
from fedquit.settings import Group, Scope, Settings, keys_of, load_settings_file, without_retired

FILE = "server.toml"
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: object) -> object:
    """Read "90s", "10m", "1h" or "30d" as seconds; a number is seconds already.

    >>> seconds("10m"), seconds("1.5h"), seconds(2)
    (600.0, 5400.0, 2)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", text) if isinstance(text, str) else None
    if isinstance(text, str) and not found:
        raise ValueError('should be a number with s, m, h or d, such as "10m"')
    return float(found[1]) * UNITS[found[2]] if found else text


Seconds = Annotated[float, BeforeValidator(seconds), Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Table(Group):
    """A table of the file: keys are kebab-case, and none is unknown."""


class Server(Table):
    """Where the server is reached, and where it keeps what it must not lose.

    Attributes:
        host: the name or address that devices reach, and that the certificate is for.
        bind: the address that devices' ports listen on.
        fleet_port: devices' port of the proxy with TLS, which passes on the SuperLink's fleet API and nothing else.
        connections_per_address: requests of one address that the proxy handles at once; a device may need two, and all
            devices behind one router have one address.
        superlink_port: the SuperLink's own port, on loopback.
        forget_port: of the forget service.
        page_port: of the operator's page.
        page_bind: the address that it listens on; beyond loopback it speaks TLS and wants a token.
        page_hosts: further names that it answers to, such as that of a proxy before it.
        ledger: URL of the database; "": ledger.db in the server's folder.
    """

    host: str = "localhost"
    bind: str = "127.0.0.1"
    fleet_port: Port = 9443
    connections_per_address: Annotated[int, Field(ge=2)] = 256
    superlink_port: Port = 9091
    forget_port: Port = 9444
    page_port: Port = 9080
    page_bind: str = "127.0.0.1"
    page_hosts: tuple[str, ...] = ()
    ledger: str = ""


class Schedule(Table):
    """When to train.

    Attributes:
        every: seconds from the begin of one round to that of the next.
        rounds: of training in all; 0: for ever.
        min_clients: devices that must be connected for a round to begin.
        round_timeout: seconds to wait for the devices of a round; who has not answered by then is left out of it.
        exclude_rounds: rounds in which a device is not asked that was found to have made a round useless.
    """

    every: Seconds = 3600.0
    rounds: Annotated[int, Field(ge=0)] = 0
    min_clients: Annotated[int, Field(ge=1)] = 2
    round_timeout: Annotated[Seconds, Field(gt=0)] = 600.0
    exclude_rounds: Annotated[int, Field(ge=0)] = 10


class Forgetting(Table):
    """How requests are answered, and what happens where they cannot be.

    Attributes:
        method: of forgetting; `teacher` and `method_settings` are its settings.
        tolerance: recovery ends once accuracy is back within this of what it was, for `patience` rounds ...
        recover_rounds: ... or after this number of rounds.
        device_timeout: seconds to wait for the device that asks, once its request's turn has come; and for the devices
            of recovery, where too few are there or no round can be carried out.
        fallback: methods to try in this order where the device is gone, refuses or its model is refused; one that
            destroys the model ("negate") only where the device is gone, and it is undone if recovery does not mend it.
        forget_clip: the device clips its unlearning step to this norm; 0: no clipping.
        forget_noise: standard deviation of the Gaussian noise that it then adds, as a multiple of `forget_clip`.
        adopt: "direct": the devices of the first round of recovery receive the unlearned model; "deferred": its step is
            added to a round from the previous model, if the method makes a short step.
        guard: what to do with a method's model that is further off than recent rounds explain.
        blend: for guard = "blend": the share of the method's model.
        deadline: seconds from a request to the day by which it must be done.
        verify_on_device: ask the device to measure the recovered model on what it had forgotten.
    """

    method: str = "fedquit"
    teacher: str = "min"
    method_settings: dict[str, bool | int | float | str] = {}
    tolerance: Annotated[float, Field(ge=0)] = 0.01
    patience: Annotated[int, Field(ge=1)] = 1
    recover_rounds: Annotated[int, Field(ge=1)] = 30
    device_timeout: Annotated[Seconds, Field(gt=0)] = 3600.0
    fallback: tuple[Literal["retrain", "federaser", "negate", "continue"], ...] = ("retrain",)
    forget_clip: Annotated[float, Field(ge=0)] = 0.0
    forget_noise: Annotated[float, Field(ge=0)] = 0.0
    adopt: Literal["direct", "deferred"] = "direct"
    guard: Literal["adopt", "clip", "blend", "refuse"] = "refuse"
    blend: Annotated[float, Field(gt=0, le=1)] = 0.5
    deadline: Annotated[Seconds, Field(gt=0)] = 30 * UNITS["d"]
    verify_on_device: bool = True

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, given: object) -> object:
        return without_retired(given) if isinstance(given, dict) else given

    @property
    def verifies(self) -> bool:
        """Whether the device is asked so; not where it adds noise: a loss on the samples tells which they are."""
        return self.verify_on_device and not self.forget_noise


class Asking(Table):
    """How many requests are taken, and how old an ask may be.

    Attributes:
        fresh: seconds that the time in an ask may differ from the server's, an hour at most.
        open_per_key: requests of one key that may wait or be under way at once, with those that were refused or have
            failed in the last 24 hours.
        daily_per_key: requests of one key within 24 hours.
        open_in_all: requests of all keys together that may wait or be under way at once.
    """

    fresh: Annotated[Seconds, Field(gt=0, le=LONGEST_FRESH)] = 600.0
    open_per_key: Annotated[int, Field(ge=1)] = 20
    daily_per_key: Annotated[int, Field(ge=1)] = 100
    open_in_all: Annotated[int, Field(ge=1)] = 1000


class Trusted(Table):
    """Data that the server trusts: `data` is a folder, .npz or Parquet file as devices have; "" for none."""

    data: str = ""


class Federation(Table):
    """A deployed federation: its name, and the tables of server.toml.

    >>> Federation(name="clinics", schedule={"every": "1h"}).schedule.every
    3600.0
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    server: Server = Server()
    training: dict[str, Any] = {}
    schedule: Schedule = Schedule()
    forgetting: Forgetting = Forgetting()
    asking: Asking = Asking()
    trusted: Trusted = Trusted()

    def settings(self) -> Settings:
        """Return the settings of training and forgetting, for devices and strategies.

        Raises:
            InputError: [training] has a key that a deployment has no use for, or a value out of range.
        """
        for scope in (Scope.SIMULATION, Scope.FORGETTING):
            for key in self.training:
                if key.replace("_", "-") in keys_of(scope):
                    raise InputError(f"{FILE}: [training] {key}: belongs to {scope}; remove it here")
        values = self.forgetting.model_dump(by_alias=True)
        forgetting = {key: values[key] for key in keys_of(Scope.FORGETTING)}
        given = {key.replace("_", "-") for key in self.training}
        limits = {key: value for key, value in LIMITS.items() if key not in given}
        if self.training.get("dp"):  # which clips by itself
            limits.pop("clip-steps", None)
        return Settings.read({**limits, **self.training, **forgetting}, f"{FILE}: [training]")

    def ledger_url(self, folder: Path) -> str:
        """Return the URL of the ledger of the server whose folder is `folder`."""
        return self.server.ledger or f"sqlite:///{(folder / 'ledger.db').resolve()}"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return what the server.toml in `folder` says; whether it can be carried out, `check_methods` says.

        Args:
            folder: of the server.

        Raises:
            InputError: it is not there, is not TOML, or says something that cannot be; the line names the key.
        """
        if not (folder / FILE).is_file():
            inside = folder / "server"
            way_out = f"did you mean {inside}?" if (inside / FILE).is_file() else "`fedquit provision` makes one"
            raise InputError(f"{folder} is not a server's folder: it has no {FILE}; {way_out}")
        return cls.parse(folder / FILE)

    @classmethod
    def parse(cls, path: Path, beside: tuple[str, ...] = ()) -> Self:
        """Return what a TOML file says, leaving out the tables `beside`, which are for somebody else."""
        document = load_settings_file(path)
        try:
            federation = cls.model_validate({key: value for key, value in document.items() if key not in beside})
        except ValidationError as error:
            first = error.errors()[0]
            key = " ".join(str(part) for part in first["loc"]) or "file"
            wanted = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
            raise InputError(f"{path}: {key}: {wanted}, got {first['input']!r}") from None
        federation.settings()
        return federation


LIMITS = {"weight-cap": 3.0, "clip-steps": 1.5, "accuracy-floor": 0.5}
"""What one device may do to a round, unless [training] says otherwise; in a simulation the clients are known."""

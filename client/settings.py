"""What a run is told: every setting once, with its range, for the command line, TOML files and Flower's run config.

A setting belongs here when it changes the result, or refuses one. How a run is carried out (workers, engine, folder)
does not.
"""

import tomllib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fedquit.errors import InputError, unknown

Scalar = bool | int | float | str
Key = tuple[tuple[str, Scalar], ...]
Numbers = tuple[Annotated[int, Field(ge=0)], ...]


def _requests(given: object) -> object:
    """Read "0,3;5" as [["0", "3"], ["5"]]: two requests, one after the other; 3 and [0, 3] are one request."""
    if isinstance(given, str):
        return [[part.strip() for part in request.split(",") if part.strip()] for request in given.split(";")]
    if isinstance(given, int) and not isinstance(given, bool):
        return [[given]]
    if isinstance(given, list | tuple) and given and not any(isinstance(part, list | tuple) for part in given):
        return [given]
    return given


def _each_once(requests: tuple[Numbers, ...]) -> tuple[Numbers, ...]:
    """Name nobody twice in one request, and refuse a request of nobody."""
    if not all(requests):
        raise ValueError("a request names nobody; write 0, or 0,3 at once, or 0;3 one after the other")
    return tuple(tuple(dict.fromkeys(request)) for request in requests)


Requests = Annotated[tuple[Numbers, ...], BeforeValidator(_requests), AfterValidator(_each_once)]


def _joined(by: str) -> Callable[[object], object]:
    """Return what reads a list or a number as text: [1, 28, 28] as "1x28x28", 10 as "10"."""

    def read(given: object) -> object:
        if isinstance(given, list | tuple):
            return by.join(map(str, given))
        return str(given) if isinstance(given, int) and not isinstance(given, bool) else given

    return read


def _pairs(given: object) -> object:
    """Read "lr=0.001,epochs=2" as {"lr": 0.001, "epochs": 2}."""
    if isinstance(given, Mapping):
        for value in given.values():
            if isinstance(value, str) and (_scalar(value) != value or "," in value or value != value.strip()):
                raise ValueError(f"the text {value!r} cannot be told from a number or a list")
        return {str(key).replace("-", "_"): value for key, value in given.items()}
    if not isinstance(given, str):
        return given
    pairs: dict[str, Scalar] = {}
    for part in filter(None, (part.strip() for part in given.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"'{part}' is not KEY=VALUE")
        pairs[key.strip().replace("-", "_")] = _scalar(value.strip())
    return pairs


def _scalar(text: str) -> Scalar:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


class Settings(BaseModel):
    """One run: which data, which federation, who is forgotten and how; defaults are the embedded example.

    >>> Settings(clients=4, forget="0,2;3").forget  # clients 0 and 2 at once, then client 3
    ((0, 2), (3,))
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
        allow_inf_nan=False,
    )

    dataset: Annotated[
        str,
        Field(
            description="digits, fashion-mnist, mnist, cifar10, cifar100, a folder, FILE.npz or package.module:factory"
        ),
    ] = "digits"
    data_root: Annotated[str, Field(description="folder to look for data in first")] = ""
    download: Annotated[bool, Field(description="allow downloading data that is not found")] = False
    image_size: Annotated[
        int, Field(ge=0, description="resize images of a folder to this many pixels; 0: as they are")
    ] = 0
    samples: Annotated[int, Field(ge=0, description="use this many training samples; 0: all")] = 0
    model: Annotated[
        str, Field(description="mlp, cnn, resnet18, a torchvision classifier or package.module:factory")
    ] = "cnn"
    models: Annotated[
        str,
        Field(
            description="models of devices that have their own: cnn,mlp in turn, or a JSON file of client -> model; "
            "empty: model"
        ),
    ] = ""
    mentee: Annotated[str, Field(description="objective fedkd: the small model that all devices share")] = ""
    classes: Annotated[
        str,
        BeforeValidator(_joined(",")),
        Field(
            pattern=r"^$|^[1-9]\d*$|^[^,]+(,[^,]+)+$",
            description="how many classes there are, or their names in order, such as ill,well; empty: the data says",
        ),
    ] = ""
    input_shape: Annotated[
        str,
        BeforeValidator(_joined("x")),
        Field(
            pattern=r"^$|^[1-9]\d*x[1-9]\d*x[1-9]\d*$",
            description="channels, height and width of an input, such as 1x28x28; empty: the data says",
        ),
    ] = ""

    clients: Annotated[int, Field(ge=1, description="number of clients")] = 5
    partition: Annotated[str, Field(description="JSON file of client -> training indices, in place of a scheme")] = ""
    scheme: Annotated[
        Literal["dirichlet", "iid", "shards", "pathological", "column"], Field(description="how the data is split")
    ] = "dirichlet"
    alpha: Annotated[float, Field(gt=0, description="Dirichlet concentration; smaller is more skewed")] = 0.1
    shards_per_client: Annotated[int, Field(ge=1, description="for scheme shards")] = 2
    classes_per_client: Annotated[int, Field(ge=1, description="for scheme pathological")] = 2
    column: Annotated[str, Field(description="for scheme column: the column that names the client")] = ""

    rounds: Annotated[int, Field(ge=1, description="rounds of training before the request")] = 20
    fraction: Annotated[float, Field(gt=0, le=1, description="share of clients that train in a round")] = 1.0
    local_epochs: Annotated[int, Field(ge=1, description="epochs a client trains in a round")] = 1
    batch_size: Annotated[int, Field(ge=1, description="samples in a batch")] = 32
    lr: Annotated[float, Field(gt=0, description="learning rate of local SGD")] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum of local SGD")] = 0.0
    weight_decay: Annotated[float, Field(ge=0, description="weight decay of local SGD")] = 0.0
    lr_decay: Annotated[float, Field(gt=0, le=1, description="factor on the learning rate after every round")] = 1.0

    objective: Annotated[str, Field(description="a name that `fedquit objectives` lists")] = "fedavg"
    objective_settings: Annotated[
        dict[str, Scalar],
        BeforeValidator(_pairs),
        Field(description="the objective's own settings, such as mu=0.1 for fedprox"),
    ] = {}
    gate: Annotated[
        str, Field(description="which samples a teacher is imitated on: speculative or adaptive; empty: all")
    ] = ""
    gate_settings: Annotated[
        dict[str, Scalar],
        BeforeValidator(_pairs),
        Field(description="the gate's own settings, such as top_k=1,beta=0.1"),
    ] = {}
    strategy: Annotated[str, Field(description="how models become one: a name that `fedquit strategies` lists")] = (
        "fedavg"
    )
    strategy_settings: Annotated[
        dict[str, Scalar],
        BeforeValidator(_pairs),
        Field(description="the strategy's own settings, such as eta=0.01 for fedadam"),
    ] = {}
    recover_strategy: Annotated[
        str, Field(description="the same for rounds of recovery, such as fedtrimmedavg; empty: as in training")
    ] = ""
    recover_strategy_settings: Annotated[
        dict[str, Scalar], BeforeValidator(_pairs), Field(description="the recovery strategy's own settings")
    ] = {}
    dp: Annotated[
        Literal["", "server-fixed", "server-adaptive", "client-fixed", "client-adaptive"],
        Field(description="differential privacy around the mean: who clips, and to what norm; empty: none"),
    ] = ""
    dp_settings: Annotated[
        dict[str, Scalar],
        BeforeValidator(_pairs),
        Field(description="its settings, such as noise_multiplier=0.5,clipping_norm=1"),
    ] = {}
    secure_aggregation: Annotated[
        bool, Field(description="refuse what reads single clients' updates; not to be run today: says why")
    ] = False
    device_folder: Annotated[
        str,
        Field(
            description="where a device keeps what its objective needs from round to round; a node's own device-folder "
            "wins; fedquit simulate: in the run's folder"
        ),
    ] = ""

    compress_up: Annotated[
        str,
        Field(description="codecs of what devices send, such as int8 or top-k+fp16+zstd; empty: none"),
    ] = ""
    compress_down: Annotated[
        str, Field(description="codecs of the model that devices get, such as fp16 or svd+int8+zstd; empty: none")
    ] = ""
    compress_settings: Annotated[
        dict[str, Scalar],
        BeforeValidator(_pairs),
        Field(description="the codecs' own settings, such as share=0.05,level=9; `fedquit codecs` lists them"),
    ] = {}

    forget: Annotated[
        Requests,
        Field(
            min_length=1, description="clients that ask to be forgotten: 0, or 0,3 at once, or 0;3 one after the other"
        ),
    ] = ((0,),)
    granularity: Annotated[
        Literal["client", "sample", "class"],
        Field(description="what is forgotten: all of those clients, some of their samples, or a class of everybody's"),
    ] = "client"
    forget_share: Annotated[
        float,
        Field(gt=0, lt=1, description="granularity sample: the share of each client's samples, drawn by the seed"),
    ] = 0.1
    forget_samples: Annotated[
        str,
        Field(
            description="granularity sample: JSON file of client -> training indices, or package.module:predicate, "
            "in place of a share"
        ),
    ] = ""
    forget_class: Annotated[
        Requests,
        BeforeValidator(lambda given: () if given == "" else given),
        Field(description="granularity class: the labels to forget, such as 3, or 3,5 at once, or 3;5"),
    ] = ()
    method: Annotated[str, Field(description="a name that `fedquit methods` lists")] = "fedquit"
    teacher: Annotated[str, Field(description="FedQUIT's virtual teacher: min, fixed, entropy, incompetent, ...")] = (
        "min"
    )
    method_settings: Annotated[
        dict[str, Scalar],
        BeforeValidator(_pairs),
        Field(description="the method's own settings, such as lr=0.001,epochs=2"),
    ] = {}
    recover: Annotated[Literal["utility", "oracle", "budget"], Field(description="when recovery stops")] = "utility"
    tolerance: Annotated[
        float, Field(ge=0, lt=1, description="utility: how far below the old held-out accuracy is near enough")
    ] = 0.01
    patience: Annotated[int, Field(ge=1, description="utility: for how many rounds in a row")] = 1
    recover_rounds: Annotated[
        int, Field(ge=1, description="rounds of recovery: at most, or exactly with recover=budget")
    ] = 30
    recover_bytes: Annotated[int, Field(ge=0, description="budget: stop recovery at this many bytes; 0: no limit")] = 0

    budget: Annotated[
        int,
        Field(
            ge=0,
            description="after recovery go on until the bytes of this many rounds are spent on the request, forgetting "
            "included: methods at equal cost, and what resurfaces; 0: end with recovery",
        ),
    ] = 0
    history_bytes: Annotated[
        int, Field(ge=0, description="keep at most so much of training on disk for methods that replay it")
    ] = 20_000_000_000

    reference: Annotated[
        Literal["retrain", "none"], Field(description="train models without the clients, to compare with")
    ] = "retrain"
    references: Annotated[
        int, Field(ge=1, le=20, description="retrained models of different seeds; two give the verdict its noise floor")
    ] = 2
    holdout: Annotated[
        int,
        Field(ge=1, description="test samples the server keeps for stop rules, at most half; results use the others"),
    ] = 2000
    seed: Annotated[int, Field(ge=0, lt=2**31, description="decides the run, bit for bit")] = 0
    split_seed: Annotated[
        int, Field(ge=-1, lt=2**31, description="decides the split and the samples to forget; -1: as seed")
    ] = -1
    model_seed: Annotated[int, Field(ge=-1, lt=2**31, description="decides the initial weights; -1: as seed")] = -1

    @classmethod
    def read(cls, given: Mapping[str, Any], source: str = "settings") -> Self:
        """Check kebab- or snake-case `given` and return the settings.

        Raises:
            InputError: an unknown key, a value out of range, or settings that exclude each other; `source`
                says where it came from.
        """
        names = {name.replace("-", "_"): value for name, value in given.items()}
        if len(names) < len(given):
            twice = next(name for name in names if name in given and name.replace("_", "-") in given and "_" in name)
            raise InputError(f"{source}: {twice.replace('_', '-')} is given twice")
        for name in names:
            if name not in cls.model_fields:
                shown = [field.replace("_", "-") for field in cls.model_fields]
                raise InputError(f"{source}: {unknown('key', name.replace('_', '-'), shown)}")
        try:
            settings = cls.model_validate(names)
        except ValidationError as error:
            raise InputError(f"{source}: {_reason(error)}") from None
        settings._check(source)
        return settings

    @classmethod
    def from_run_config(cls, config: Mapping[str, Scalar], clients: int | None = None) -> Self:
        """Return the settings in Flower's run config, where `out` and `folder` are the ServerApp's."""
        told = {key: value for key, value in config.items() if key not in ("out", "folder")}
        return cls.read(told if clients is None else {**told, "clients": clients}, "run config")

    def _check(self, source: str) -> None:
        named = [client for request in self.forget for client in request]
        beyond = [client for client in named if client >= self.clients]
        if beyond:
            raise InputError(
                f"{source}: forget: there is no client {beyond[0]}; "
                f"clients are 0..{self.clients - 1} (clients = {self.clients})"
            )
        if self.granularity == "client" and len(set(named)) < len(named):
            raise InputError(f"{source}: forget: client {_twice(named)} asks to be forgotten twice")
        if self.granularity == "client" and len(named) == self.clients:
            raise InputError(f"{source}: forget: all {self.clients} clients would leave; at least one must stay")
        if (self.granularity == "class") != bool(self.forget_class):
            raise InputError(f"{source}: granularity = class and forget-class = LABEL go together")
        if self.forget_samples and self.granularity != "sample":
            raise InputError(f"{source}: forget-samples needs granularity = sample")
        if self.recover == "oracle" and self.num_requests > 1:
            raise InputError(f"{source}: recover = oracle knows the model retrained after the last request only")
        if self.recover == "oracle" and self.reference == "none":
            raise InputError(f"{source}: recover = oracle compares with a retrained model: set reference = retrain")
        if self.method != "fedquit" and self.teacher != "min":
            raise InputError(f"{source}: teacher is a setting of method fedquit, not of {self.method}")
        if bool(self.classes) != bool(self.input_shape):
            raise InputError(f"{source}: classes and input-shape go together: they stand in for data that is elsewhere")
        if self.scheme == "column" and not self.column:
            raise InputError(f"{source}: scheme = column needs column = NAME")

    @property
    def num_requests(self) -> int:
        """How many requests come one after the other."""
        return len(self.forget_class if self.granularity == "class" else self.forget)

    @property
    def seed_of_split(self) -> int:
        """What decides the split, and which samples are drawn to be forgotten."""
        return self.seed if self.split_seed < 0 else self.split_seed

    @property
    def seed_of_model(self) -> int:
        """What decides the initial weights."""
        return self.seed if self.model_seed < 0 else self.model_seed

    def method_options(self) -> dict[str, Scalar]:
        """Return what the method is built with; `teacher` is FedQUIT's."""
        return (
            {"teacher": self.teacher, **self.method_settings}
            if self.method == "fedquit"
            else dict(self.method_settings)
        )

    def run_config(self) -> dict[str, Scalar]:
        """Return the settings as Flower's run config: kebab-case keys, scalars only."""
        config: dict[str, Scalar] = {}
        for key, value in self.model_dump(by_alias=True).items():
            if isinstance(value, tuple):
                value = ";".join(",".join(map(str, request)) for request in value)
            elif isinstance(value, dict):
                value = ",".join(f"{name}={_shown(part)}" for name, part in value.items())
            config[key] = value
        return config

    def key(self) -> Key:
        """Return the settings as something hashable, to cache by; `settings_of` is the way back."""
        return tuple(sorted(self.run_config().items()))


@lru_cache(maxsize=16)
def settings_of(key: Key) -> Settings:
    """Return the settings that `Settings.key` was made from.

    >>> settings_of(Settings(seed=3).key()).seed
    3
    """
    return Settings.read(dict(key))


def _twice(named: list[int]) -> int:
    return next(number for number in named if named.count(number) > 1)


def _shown(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reason(error: ValidationError) -> str:
    """Say in one line what the first failed check wanted."""
    first = error.errors()[0]
    key = str(first["loc"][0]).replace("_", "-") if first["loc"] else "settings"
    wanted = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{key}: {wanted}, got {first['input']!r}"


def load_settings_file(path: Path) -> dict[str, Any]:
    """Return the keys of a TOML file, unchecked.

    Raises:
        InputError: the file is not there or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no such config file: {path}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give a TOML file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from None

"""One forget request, as a method sees it: `fedquit.unlearning.session.Session` over the grid."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from fedquit.client.data.build_data_and_model import form_of, initial_model
from fedquit.errors import FedquitError, NoReplyError
from fedquit.server.lifecycle.request_seeds import RequestSeeds
from fedquit.settings import Settings
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.rounds.aggregate import Config
from fedquit.strategies.rounds.exercise import run_exercise
from fedquit.strategies.rounds.reply import OnReply, Reply
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.session import ClientReply, History
from fedquit.unlearning.tensors.arithmetic import check_usable
from fedquit.unlearning.tensors.convert import Arrays, StateDict, arrays_of, tensors_of


@dataclass(frozen=True, slots=True)
class Case:
    """Which clients a request is about, its seeds, and what devices are sent of it.

    Attributes:
        forgotten: the clients with something to forget; `remaining`: those that take part and have nothing to forget.
        num_examples: client -> number of samples to forget, or of all its samples if it has none to forget.
        seeds: of the method and of devices' exercises.
        config: what every device is sent.
        own: client -> what only it is sent, besides `config`.
        proxy: gives the samples that the server itself holds.
    """

    forgotten: tuple[int, ...]
    remaining: tuple[int, ...]
    num_examples: Mapping[int, int]
    seeds: RequestSeeds
    config: Config
    proxy: Callable[[], Samples | None] = lambda: None
    own: Mapping[int, Config] = field(default_factory=dict)


def exercise_config(
    case: Case, exercise: str, step: str, config: Mapping[str, float], *, lr: float, exchanges: int, client: int
) -> dict[str, float | str]:
    """Return what a client is sent besides the model: the method's config, which samples, and a seed.

    >>> case = Case((3,), (0,), {}, RequestSeeds(1, lambda exchanges, client: 7, 1), {"requests": 1})
    >>> exercise_config(case, "train", "forget", {"epochs": 2}, lr=0.1, exchanges=0, client=0)
    {'lr': 0.1, 'epochs': 2, 'requests': 1, 'samples': 'keep', 'seed': 7}
    """
    common: dict[str, float | str] = {"lr": lr, **config} if exercise == "train" else {**config, "step": step}
    samples = "forget" if client in case.forgotten else "keep"
    return {
        **common,
        **case.config,
        **case.own.get(client, {}),
        "samples": samples,
        "seed": case.seeds.exercise(exchanges, client),
    }


class GridSession:
    """See `Session`; it also records which clients replied, why others did not, and what the devices spent.

    Args:
        grid: carries the messages, after `begin`, which says what they count to.
        settings: of the federation.
        case: the request.
        initial: the model before the first round.
        current: the model that the request starts from.
        history: of training, as far as it was kept.
        lr: learning rate of an ordinary round at this point of the schedule.
        on_reply: called with every reply.
        check: compares what a client returns with what it was sent, given whether it was to train, and raises
            `BadReplyError` if that must not be used. None: only what is not a model is refused.

    Attributes:
        answered: client -> its last reply that could be used, without the model.
    """

    def __init__(
        self,
        grid: MeteredGrid,
        settings: Settings,
        case: Case,
        *,
        initial: StateDict,
        current: StateDict,
        history: History,
        lr: float,
        on_reply: OnReply,
        check: Callable[..., None] | None = None,
    ) -> None:
        self.initial, self.current, self.history = initial, current, history
        self.seed, self.forgotten, self.remaining, self.num_examples = (
            case.seeds.method, case.forgotten, case.remaining, case.num_examples,
        )  # fmt: skip
        self.exchanges, self.loss, self.device_seconds = 0, 0.0, 0.0
        self.reasons: list[str] = []
        self.answered: dict[int, Reply] = {}
        self._grid, self._settings, self._case = grid, settings, case
        self._lr, self._on_reply, self._check = lr, on_reply, check

    @property
    def proxy(self) -> Samples | None:
        """See `Session`."""
        return self._case.proxy()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """See `Session`."""
        return form_of(self._settings).input_shape

    def fresh(self, seed: int) -> nn.Module:
        """See `Session`."""
        return initial_model(self._settings, seed)

    def run(
        self,
        exercise: str,
        clients: Sequence[int],
        state: StateDict,
        *,
        step: str = "forget",
        extra: StateDict | None = None,
        **config: float,
    ) -> Iterator[ClientReply]:
        """See `Session`."""
        if not clients:
            return
        self.exchanges += 1
        configs = {
            client: exercise_config(
                self._case, exercise, step, config, lr=self._lr, exchanges=self.exchanges - 1, client=client
            )
            for client in clients
        }
        more = None if extra is None else arrays_of(extra)
        losses = weight = 0.0
        arrays = arrays_of(state)

        def check(reply: Reply) -> None:
            if self._check is not None:
                self._check(tensors_of(reply.arrays), state, training=exercise == "train")

        for reply in run_exercise(
            self._grid, exercise, clients, arrays, configs, extra=more, on_reply=self._note_reply, check=check
        ):
            self.answered[reply.client] = Reply(
                reply.client, {}, reply.num_examples, reply.metrics, reply.samples_digest
            )
            self.device_seconds += reply.metrics.get("cpu-seconds", 0.0)
            losses += reply.metrics.get("loss", 0.0) * reply.num_examples
            weight += reply.num_examples
            self.loss = losses / weight
            believed = min(reply.num_examples, self.num_examples[reply.client])
            yield ClientReply(reply.client, tensors_of(reply.arrays), believed, reply.metrics)

    def _note_reply(self, client: int, refused: str | None) -> None:
        if refused is not None:
            self.reasons.append(f"client {client}: {refused}")
        self._on_reply(client, refused)


def served(method: Method, session: GridSession) -> Arrays:
    """Have the method serve the request, and let only a usable model through.

    Raises:
        NoReplyError: a device that is needed did not reply.
        FedquitError: what the method did or returned cannot be used.
    """
    name = method.name
    try:
        state = method.serve(session)
        check_usable(state, session.current)
    except NoReplyError as error:
        raise NoReplyError(f"{error} ({'; '.join(session.reasons)})") from error
    except FedquitError as error:
        raise type(error)(str(error) if name in str(error) else f"method '{name}': {error}") from error
    except Exception as error:
        if type(method).__module__.startswith("fedquit."):
            raise
        raise FedquitError(f"method '{name}' failed: {error!r}") from error
    return arrays_of(state)

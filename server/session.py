"""One forget request, as a method sees it: `fedquit.unlearning.session.Session` over the grid."""

from collections.abc import Iterator, Sequence

from torch import nn

from fedquit.client.request import askers, leavers, to_forget, to_keep
from fedquit.client.settings import Settings
from fedquit.client.share import initial_model
from fedquit.server.judge import sets_of, tensors_of
from fedquit.strategies.ask import ask
from fedquit.strategies.metered import MeteredGrid
from fedquit.strategies.train import OnReply
from fedquit.unlearning.arithmetic import StateDict
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.session import Answer, History


class GridSession:
    """See `Session`; and it remembers who answered, why others did not, and what the devices spent.

    Args:
        grid: carries the messages, already told which phase and round they count to.
        settings: of the run.
        request: which of its requests, from 0.
        initial: the model before the first round.
        current: that of the request.
        history: what was kept of training.
        number: how many rounds the current model has been trained for.
        lr: learning rate of an ordinary round at this point of the schedule.
        on_reply: told of every reply.
    """

    def __init__(
        self,
        grid: MeteredGrid,
        settings: Settings,
        request: int,
        *,
        initial: StateDict,
        current: StateDict,
        history: History,
        number: int,
        lr: float,
        on_reply: OnReply,
    ) -> None:
        self.initial, self.current, self.history = initial, current, history
        self.seed = derive_seed(settings.seed, "request", request)
        self._number = number
        self.leavers = askers(settings, request)
        left = {*self.leavers, *leavers(settings, request)}
        self.stayers = tuple(client for client in range(settings.clients) if client not in left)
        parts = zip(to_forget(settings.key(), request), to_keep(settings.key(), request + 1), strict=True)
        self.num_examples = {client: len(gone) or len(kept) for client, (gone, kept) in enumerate(parts)}
        self.exchanges, self.loss, self.device_seconds = 0, 0.0, 0.0
        self.reasons: list[str] = []
        self.answered: set[int] = set()
        self._grid, self._settings, self._request = grid, settings, request
        self._lr, self._on_reply = lr, on_reply

    @property
    def proxy(self) -> Samples | None:
        """See `Session`: the held-out samples."""
        return sets_of(self._settings).holdout

    def fresh(self, seed: int) -> nn.Module:
        """See `Session`."""
        return initial_model(self._settings, seed)

    def ask(
        self,
        exercise: str,
        clients: Sequence[int],
        state: StateDict,
        *,
        step: str = "forget",
        extra: StateDict | None = None,
        **config: float,
    ) -> Iterator[Answer]:
        """See `Session`."""
        if not clients:
            return
        self.exchanges += 1
        common: dict[str, float | str] = {"lr": self._lr, **config} if exercise == "train" else {**config, "step": step}
        common["requests"] = self._request + 1
        told = {client: {**common, **self._own(client)} for client in clients}
        more = None if extra is None else {name: tensor.numpy() for name, tensor in extra.items()}
        losses = weight = 0.0
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        for reply in ask(self._grid, exercise, clients, arrays, told, extra=more, on_reply=self._told):
            self.answered.add(reply.client)
            self.device_seconds += reply.metrics.get("cpu-seconds", 0.0)
            losses += reply.metrics.get("loss", 0.0) * reply.num_examples
            weight += reply.num_examples
            self.loss = losses / weight
            yield Answer(reply.client, tensors_of(reply.arrays), reply.num_examples, reply.metrics)

    def _own(self, client: int) -> dict[str, float | str]:
        """Return what one client alone is told: which samples, and a seed."""
        number = self._number + self.exchanges - 1
        seed = derive_seed(self._settings.seed, self._grid.phase, number, client)
        return {"samples": "forget" if client in self.leavers else "keep", "seed": seed}

    def _told(self, client: int, refused: str | None) -> None:
        if refused is not None:
            self.reasons.append(f"client {client}: {refused}")
        self._on_reply(client, refused)

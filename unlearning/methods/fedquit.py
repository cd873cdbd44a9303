"""FedQUIT: the device that asks lets a copy of the global model imitate a virtual teacher on the samples to forget.

The teacher is the global model itself, with the true class of each sample lowered: the student unlearns the sample
and keeps what the model thinks of the other classes. Source: FedQUIT, arXiv 2408.07587.

The student starts as the teacher and forget samples are not augmented, so the teacher is asked once, before the
student moves: one pass over the samples, and no second model in memory.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn, optim

from fedquit.errors import FedquitError, InputError, unknown
from fedquit.unlearning.distillation.distances import DISTANCES, check_clip, distance
from fedquit.unlearning.distillation.teachers import TEACHERS, virtual_teacher
from fedquit.unlearning.exchanges import Exchange, Outlook
from fedquit.unlearning.methods.base import Method, Traits, method
from fedquit.unlearning.samples import Samples, shuffled_batches
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.setting_checks import check_count, check_positive, is_number
from fedquit.unlearning.tensors.batch_norm import check_statistics, statistics_for, unlearning_mode
from fedquit.unlearning.tensors.fitting import seeded, trainable
from fedquit.unlearning.tensors.inference import logits

TEACHER_BATCH = 64  # any size gives the same targets; larger ones take a fifth longer (cnn), as they leave the cache
WATCHED = 256  # with lr "auto", the number of samples to forget that are evaluated after each step
AUTO = {"adam": 1e-3, "adamw": 5e-4}  # with lr "auto", the step size
MOST_STEPS = 300  # with lr "auto", the number of steps at most

BETA_1, BETA_2 = 0.9, 0.999
ROUNDING = 1e-3  # weights and steps are float32
SETTLED = 50_000  # steps after which bias corrections are 1 to the last bit


def adam_reach(steps: int) -> float:
    """Return how far Adam (Kingma & Ba 2015, arXiv 1412.6980, Algorithm 1) can move a parameter, in units of its lr.

    Whatever the gradients g_1, ..., g_t are, by Cauchy and Schwarz
    |sum_i b1^(t-i) g_i| <= sqrt(sum_i (b1^2/b2)^(t-i)) sqrt(sum_i b2^(t-i) g_i^2), which bounds each step's m/sqrt(v),
    bias corrections included; eps only shortens it.

    >>> round(adam_reach(1), 2), adam_reach(10) / 10 < 1.1, adam_reach(1000) / 1000 < 7.3
    (1.0, True, True)
    """
    reach = terms = ratio = 0.0
    for step in range(1, min(steps, SETTLED) + 1):
        terms = 1 + terms * BETA_1**2 / BETA_2
        ratio = (1 - BETA_1) * math.sqrt(terms / (1 - BETA_2))
        reach += ratio * math.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
    return (reach + max(0, steps - SETTLED) * ratio) * (1 + ROUNDING)


def _adam(parameters: list[nn.Parameter], lr: float) -> optim.Optimizer:
    return optim.Adam(parameters, lr=lr, betas=(BETA_1, BETA_2), eps=1e-7)


def _adamw(parameters: list[nn.Parameter], lr: float) -> optim.Optimizer:
    return optim.AdamW(parameters, lr=lr, betas=(BETA_1, BETA_2), eps=1e-7, weight_decay=4e-3)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter], float], optim.Optimizer]] = {"adam": _adam, "adamw": _adamw}


@method
@dataclass(frozen=True, slots=True)
class FedQUIT(Method):
    """Imitate the virtual teacher on the samples to forget (arXiv 2408.07587).

    One epoch is the paper's choice and is meant: the student overshoots, its test accuracy falls with its forget
    accuracy, and recovery rounds without the client mend that. More epochs, or larger steps, break more than recovery
    gives back.

    Attributes:
        teacher: a name in `TEACHERS`; the paper's is "min", the others its ablations.
        value: the true class's logit for teacher "fixed" (0.0 if None); the others take none.
        top_k: how many other classes teacher "topk" leaves as they are; the paper's 5.
        loss: a name in `DISTANCES`; the paper's is "kl", the others its ablations.
        lr: the paper's 1e-4 for CNN and ResNet on non-IID clients, 1e-3 on IID clients, 5e-4 (with "adamw") for
            transformers. "auto" is ours, for clients with few samples, where one epoch is a few steps and forgets
            nothing: steps of 1e-3 (5e-4 with "adamw"), as many as it takes until KL(p || f), the mean distance to the
            teacher on the samples to forget, is at most `near` times KL(p || g), where it began; at most 300. `epochs`
            is then ignored. docs/results/visible.md says how it was chosen, and what `temperature` 4 adds.
        epochs: passes over the samples; the paper's 1.
        batch_size: samples a step; the paper's 32.
        temperature: tau of teacher and student; the paper's 1.
        tau_squared: multiply the loss by tau^2; off in the paper.
        optimizer: "adam" (betas .9 and .999, eps 1e-7) or "adamw" (the same, weight decay 4e-3). Keras adds eps before
            the bias correction, torch after it; only order-fixed replays show the difference.
        clip: None computes KL exactly; 1e-7 repeats the paper's Keras loss, at the cost described in `distances.kl`.
        statistics: of batch normalisation. "global": the student keeps those of the global model, so that nobody gets
            the mean and the variance of the samples to forget. "local": they follow the samples, as in the paper.
        near: with lr "auto", the share of its distance to the teacher at which the student stops.

    >>> model = nn.Linear(2, 3)
    >>> samples = Samples(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]))
    >>> len(FedQUIT(epochs=2).forget(model, samples, seed=0))
    2
    """

    name: ClassVar[str] = "fedquit"
    traits: ClassVar[Traits] = Traits(
        granularities=frozenset({"client", "sample", "class"}),
        runs_at="device",
        server_keeps="nothing",
        needs_device=True,
        secure_aggregation=True,
        summary="the device distils a virtual teacher that never knew the true class",
        paper="arXiv 2408.07587",
    )

    teacher: str = "min"
    value: float | None = None
    top_k: int = 5
    loss: str = "kl"
    lr: float | str = 1e-4
    epochs: int = 1
    batch_size: int = 32
    temperature: float = 1.0
    tau_squared: bool = False
    optimizer: str = "adam"
    clip: float | None = None
    statistics: str = "global"
    near: float = 0.1

    def __post_init__(self) -> None:
        for field, known in (("teacher", TEACHERS), ("loss", DISTANCES), ("optimizer", OPTIMIZERS)):
            if getattr(self, field) not in known:
                raise unknown(field, str(getattr(self, field)), known)
        if isinstance(self.lr, str) and self.lr != "auto":
            raise InputError(f"lr is {self.lr!r}; it must be a finite number above 0, or auto")
        for field in ("temperature",) if self.lr == "auto" else ("lr", "temperature"):
            check_positive(field, getattr(self, field))
        for field in ("epochs", "batch_size", "top_k"):
            check_count(field, getattr(self, field))
        if not (is_number(self.near) and 0 < self.near < 1):
            raise InputError(f"near is {self.near!r}; it must be above 0 and below 1")
        if not isinstance(self.tau_squared, bool):
            raise InputError(f"tau_squared is {self.tau_squared!r}; it must be true or false")
        if self.value is not None and self.teacher != "fixed":
            raise InputError(f"value is {self.value}, but teacher '{self.teacher}' takes none; only 'fixed' does")
        if self.value is not None and not is_number(self.value):
            raise InputError(f"value is {self.value!r}; it must be a finite number")
        if self.clip is not None and not is_number(self.clip):
            raise InputError(f"clip is {self.clip!r}; it must be above 0 and below 1")
        check_clip(self.loss, self.clip)
        check_statistics(self.statistics)

    @property
    def stronger(self) -> str:
        """See `Method.stronger`; lr "auto" takes as many steps as that needs already."""
        return "" if self.lr == "auto" else "lr=auto,temperature=4 takes as many steps as that needs"

    @property
    def undoes(self) -> bool:
        """See `Method.undoes`: with lr "auto" the step is as long as that takes."""
        return self.lr == "auto"

    def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...]:
        """One request to the forgotten clients; the teacher goes through the samples once, forwards."""
        passes = None if self.lr == "auto" else self.epochs + 1 / 3
        return (Exchange("forget", outlook.forgotten, passes=passes),)

    def forget(self, model: nn.Module, samples: Samples, *, seed: int) -> list[float]:
        """Unlearn `samples` in place; return the mean loss of each epoch that was begun.

        The teacher answers in inference mode. The student trains in training mode: dropout drops, and for batch
        normalisation see `statistics`. Dropout and the shuffle are drawn from `seed`, so a run repeated after a crash
        gives the same model. Only parameters with `requires_grad` move. If this raises, the model may be half changed:
        drop it.

        Args:
            model: the global model, logits [B, C]; becomes the student.
            samples: what to forget.
            seed: the request's own number.

        Raises:
            InputError: no samples, no parameter to train, or labels that do not fit the model.
            FedquitError: the loss is no longer finite.
        """
        parameters = trainable(model, samples)
        targets = self.targets(model, samples)
        optimizer = OPTIMIZERS[self.optimizer](parameters, self.step_size())
        order = torch.Generator().manual_seed(seed)
        steps = Steps(MOST_STEPS, self.goal(model, samples, targets, seed)) if self.lr == "auto" else Steps()
        losses = list[float]()
        with seeded(seed, targets.device), unlearning_mode(model, self.statistics):
            while not steps.enough() and (self.lr == "auto" or len(losses) < self.epochs):
                losses.append(self._epoch(model, samples, targets, optimizer, order, len(losses), steps))
        return losses or [0.0]

    def goal(self, model: nn.Module, samples: Samples, targets: Tensor, seed: int) -> Callable[[], bool]:
        """Return a test of whether the student is near enough to the teacher for lr "auto"."""
        index = _some(len(samples), WATCHED, seed)
        watched, target = samples.subset(index), targets[index.to(targets.device)]

        def far() -> float:
            output = logits(model, watched, TEACHER_BATCH)
            return float(distance("kl", target, output, self.temperature))

        begin = far()
        return lambda: far() <= self.near * begin

    def reach(self, num_examples: int) -> float | None:
        """See `Method.reach`; with "adamw" the weights also decay, by an amount that depends on them: not known.

        >>> round(FedQUIT(lr=0.001).reach(64), 5)  # two batches
        0.002
        """
        if self.optimizer != "adam":
            return None
        steps = MOST_STEPS if self.lr == "auto" else self.epochs * math.ceil(num_examples / self.batch_size)
        return self.step_size() * adam_reach(steps)

    def step_size(self) -> float:
        """Return the step size; for "auto" the paper's for IID clients, or with "adamw" its one for transformers.

        >>> FedQUIT(lr="auto", optimizer="adamw").step_size()
        0.0005
        """
        if isinstance(self.lr, str):
            return AUTO[self.optimizer]
        return self.lr

    def targets(self, model: nn.Module, samples: Samples) -> Tensor:
        """Return the virtual teacher's log-probabilities for each sample, in order, [N, C].

        >>> samples = Samples(torch.ones(1, 2), torch.tensor([1]))
        >>> FedQUIT(teacher="incompetent").targets(nn.Linear(2, 4), samples).exp()
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
        """
        replies = torch.split(logits(model, samples, TEACHER_BATCH), TEACHER_BATCH)
        pairs = zip(replies, torch.split(samples.labels, TEACHER_BATCH), strict=True)
        settings = (self.teacher, self.temperature, self.value, self.top_k)
        return torch.cat([virtual_teacher(reply, labels, *settings) for reply, labels in pairs])

    def _epoch(
        self,
        model: nn.Module,
        samples: Samples,
        targets: Tensor,
        optimizer: optim.Optimizer,
        order: torch.Generator,
        epoch: int,
        steps: "Steps",
    ) -> float:
        total, seen = 0.0, 0
        for step, index in enumerate(shuffled_batches(len(samples), self.batch_size, order)):
            inputs, _ = samples.batch(index)
            target = targets[index.to(targets.device)]
            with statistics_for(model, len(index)):
                output = model(inputs.to(targets.device))
            loss = distance(self.loss, target, output, self.temperature, self.tau_squared, self.clip)
            if not loss.isfinite():
                at = f"epoch {epoch + 1}, step {step + 1}"
                raise FedquitError(f"the loss is {loss.item()} at {at}: try an lr below {self.step_size()}")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total, seen = total + loss.item() * len(index), seen + len(index)
            steps.done += 1
            if steps.enough():
                break
        optimizer.zero_grad()
        return total / seen


def _some(count: int, most: int, seed: int) -> Tensor:
    """Return the numbers of all samples, or of `most` of them drawn by `seed`."""
    draw = torch.Generator().manual_seed(derive_seed(seed, "watched"))
    return torch.arange(count) if count <= most else torch.randperm(count, generator=draw)[:most]


@dataclass(slots=True)
class Steps:
    """The steps of one pass, and when they are enough: at the goal, or after `most`; both only for lr "auto"."""

    most: int | None = None
    goal: Callable[[], bool] = lambda: False
    done: int = 0
    _asked: tuple[int, bool] = (-1, False)

    def enough(self) -> bool:
        """Say whether to stop; the goal is evaluated once after each step."""
        if self._asked[0] != self.done:
            self._asked = self.done, self.done == self.most or self.goal()
        return self._asked[1]

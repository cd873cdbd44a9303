"""The step that forgets: on the devices or at the server, as the method says, past the guard, and into the ledger."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from fedquit.client.device.deployed_device import DROP, NOTHING_TO_FORGET, REPORTED
from fedquit.errors import (
    AwayError,
    CannotForgetError,
    FedquitError,
    NoReplyError,
    NothingToForgetError,
    RefusedModelError,
    UnreachableError,
    UnusableModelError,
)
from fedquit.server.coordinator.model_evaluation import NOTHING_HELD, Evaluator
from fedquit.server.coordinator.participants.presence import Presence
from fedquit.server.coordinator.participants.time_to_answer import time_to_answer
from fedquit.server.coordinator.retention import Past
from fedquit.server.coordinator.training_rounds import Training
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import FORGOTTEN, Contribution, Request, Step
from fedquit.server.ledger.model_lineage import check_exact
from fedquit.server.lifecycle.forget_and_admit import ForgetResult, Guard, forget_and_admit
from fedquit.server.lifecycle.grid_session import Case, GridSession, served
from fedquit.server.lifecycle.observed_rounds import recent_rounds
from fedquit.settings import Part, Settings, keys_of
from fedquit.strategies.guard.decide import Policy
from fedquit.strategies.guard.step_checks import Recent, bounds_of
from fedquit.strategies.rounds.aggregate import Config
from fedquit.strategies.rounds.evaluate import measure
from fedquit.strategies.rounds.exercise import run_exercise
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.tensors.convert import Arrays, StateDict, arrays_of


class Forgetting:
    """Carries out the forget step of requests at one workplace."""

    def __init__(self, place: Workplace, past: Past, evaluator: Evaluator, training: Training) -> None:
        self.place, self.past, self.evaluator, self.training = place, past, evaluator, training
        self._empty = defaultdict[str, set[int]](set)  # request -> who has answered that it holds nothing of it
        self.asked_at = 0.0  # when the devices were last asked to forget

    def carry_out(self, request: Request, plan: Settings, method: Method, presence: Presence) -> None:
        """Have a method forget, and commit what came of it.

        Raises:
            NoReplyError: a device that is needed did not answer.
            RefusedModelError: the guard refused its model.
            CannotForgetError: the method cannot do it.
            NothingToForgetError: there is nothing to forget.
        """
        place, started = self.place, time.perf_counter()
        number, before = place.next_number(), place.current()
        place.reached("forgetting: begin")
        current = place.state(before)
        place.grid.begin("forget", number, presence.left_out)
        place.grid.patience = place.federation.schedule.round_timeout
        keeping: Config = {"samples": "keep", **self.training.config()}
        gone = self.training.gone_classes()
        reference = self.evaluator.measure(arrays_of(current), presence, keeping, gone)
        place.grid.patience, self.asked_at = time_to_answer(place, request), place.clock()
        session, done = self._forgotten(request, plan, method, presence, current, number)
        if done.arrays is None:
            raise RefusedModelError(f"the guard refused the model: {done.decision.reason if done.decision else ''}")
        new, restart = done.arrays, done.restart_round
        round_number = place.rounds_trained() if restart is None else self._round_of(restart)
        place.grid.patience = place.federation.schedule.round_timeout
        try:
            measures = self.evaluator.measure(new, presence, keeping, gone)
        except UnusableModelError as error:
            raise CannotForgetError(str(error)) from error
        model = place.models.save(new)
        place.reached("forgetting: model written")
        if method.traits.restarts:
            self._check_restart(request, model)
        place.grid.costs.sync()
        traffic, evaluation_traffic = place.grid.costs.of("forget", number), place.grid.costs.of("evaluate", number)
        step = Step(
            number=number,
            phase="forget",
            request=request.id,
            model_before=before,
            model_after=model,
            round=round_number,
            contributions=tuple(
                Contribution(member, reply.num_examples, reply.samples_digest)
                for member, reply in sorted(session.answered.items())
            ),
            refused=len(session.reasons),
            seconds=time.perf_counter() - started,
            device_seconds=session.device_seconds,
            bytes_down=traffic.down + evaluation_traffic.down,
            bytes_up=traffic.up + evaluation_traffic.up,
            measures={
                **{f"{name}_before": value for name, value in reference.items()},
                **{f"{name}_after": value for name, value in measures.items()},
                **_measures_by_method(session),
            },
            at=place.clock(),
        )
        place.ledger.advance(
            request.id,
            of="forgetting",
            to="recovering",
            kind="forgot",
            step=step,
            model_before=before,
            model_after=model,
        )
        place.reached("recovering: committed")
        self.past.tidy()

    def drop(self, request: Request, members: Sequence[int]) -> list[int]:
        """Have devices drop what a request was about, and return those that have; their models are not used."""
        place, number, heard = self.place, self.place.next_number(), dict[int, str | None]()
        place.grid.begin("forget", number)
        place.grid.patience = place.federation.schedule.round_timeout
        config = {**self._config(request, place.settings), DROP: 1, "samples": "forget", "seed": 0}
        listen = self.training.on_reply("forget", number, request.id)

        def hear(member: int, refused: str | None) -> None:
            heard[member] = refused
            listen(member, refused)

        for _ in run_exercise(
            place.grid,
            "forget",
            members,
            place.models.load(place.current()),
            dict.fromkeys(members, config),
            on_reply=hear,
        ):
            pass
        place.grid.costs.sync()
        return sorted(m for m, refused in heard.items() if refused is None or NOTHING_HELD in refused)

    def _forgotten(
        self, request: Request, plan: Settings, method: Method, presence: Presence, current: StateDict, number: int
    ) -> tuple[GridSession, ForgetResult]:
        """Have the method serve the request, its model held aside until the guard has looked at it."""
        place, name = self.place, ""
        with _blaming(method):
            counts = self._counts(request, plan, method, presence)
            guard = self._guard(request, method, counts)
            session = self._session(request, plan, presence, current, number, counts, guard)

        def serve(method: Method, session: GridSession) -> Arrays:
            with _blaming(method):
                return self._served(request, method, session)

        def hold(new: Arrays) -> None:
            nonlocal name
            place.reached("forgetting: replies")
            revoked = [member for member in sorted(session.answered) if place.ledger.member(member).status == "revoked"]
            if revoked:
                raise AwayError(f"the key of member {revoked[0]} was revoked while it forgot")
            name = place.quarantine.save(new)
            place.reached("forgetting: quarantined")

        done = forget_and_admit(method, session, guard, serve=serve, hold=hold)
        document = done.decision.document() if done.decision else {}
        facts = {"model": name, "method": method.name, "policy": guard.policy.guard, **document}
        place.note("quarantined", request=request.id, member=request.subject, facts=facts)
        place.reached("forgetting: decided")
        return session, done

    def _served(self, request: Request, method: Method, session: GridSession) -> Arrays:
        """Have the method serve the request.

        Raises:
            NothingToForgetError: the device that asked says so.
        """
        try:
            return served(method, session)
        except NoReplyError as error:
            own = [why for why in session.reasons if why.startswith(f"client {request.subject}:")]
            if request.granularity == "sample" and any(NOTHING_TO_FORGET in why for why in own):
                raise NothingToForgetError(own[-1]) from error
            raise

    def _session(
        self,
        request: Request,
        plan: Settings,
        presence: Presence,
        current: StateDict,
        number: int,
        counts: Mapping[int, int],
        guard: Guard,
    ) -> GridSession:
        place = self.place
        forgotten = tuple(sorted(counts))
        remaining = tuple(member for member in presence.ready if member not in forgotten)
        case = Case(
            forgotten=forgotten,
            remaining=remaining,
            num_examples={**{member: self.past.size(member) for member in remaining}, **counts},
            seeds=place.seeds(request),
            config=self._config(request, plan),
            proxy=lambda: self.evaluator.trusted,
        )
        return GridSession(
            place.grid,
            place.settings,
            case,
            initial=place.state(place.initial),
            current=current,
            history=self.past.session_history(),
            lr=place.lr(place.rounds_trained() + 1),
            on_reply=self.training.on_reply("forget", number, request.id),
            check=guard.check,
        )

    def _counts(self, request: Request, plan: Settings, method: Method, presence: Presence) -> dict[int, int]:
        """Return the devices with something to forget, and how many samples each; none has more than it has shown.

        Raises:
            NothingToForgetError: none has.
            AwayError: none that is there has, and one that is not may.
        """
        if request.granularity == "sample":
            return {request.subject: max(1, min(request.samples_count, self.past.size(request.subject)))}
        if request.granularity == "client":
            return {request.subject: self.past.size(request.subject)}
        if method.traits.runs_at == "server":  # nobody is asked: whoever contributed may hold some
            everybody = {member for members in self.past.steps().values() for member in members}
            return {member: self.past.size(member) for member in everybody}
        found = self._found(request, plan, presence)
        unheard = self._contributors() - self._empty[request.id] - found.keys()
        if not method.traits.needs_device:  # who has not said otherwise may hold some
            return {**{member: self.past.size(member) for member in unheard}, **found}
        if not found and not unheard:
            which = ", ".join(map(str, request.classes))
            raise NothingToForgetError(f"{NOTHING_TO_FORGET}: no device holds any of class {which}")
        if not found:
            raise AwayError(f"no device that is connected holds any of it, and {len(unheard)} may that are not")
        return found

    def _found(self, request: Request, plan: Settings, presence: Presence) -> dict[int, int]:
        """Ask the devices that are there how many samples of a class they hold, and return those that hold some.

        Who has answered that it holds none is not asked again.
        """
        none = self._empty[request.id]

        def hear(member: int, refused: str | None) -> None:
            if refused and NOTHING_HELD in refused:
                none.add(member)

        config = {"samples": "forget", **self._config(request, plan)}
        arrays = self.place.models.load(self.place.current())
        asked = [member for member in presence.ready if member not in none]
        answers = measure(self.place.grid, asked, arrays, config, hear)
        return {member: min(count, self.past.size(member)) for member, count, _ in answers}

    def without(self, request: Request) -> set[int]:
        """Return who has answered that it holds nothing of a class."""
        return set(self._empty[request.id])

    def _contributors(self) -> set[int]:
        """Return who contributed to any step, without those who left and were forgotten."""
        gone = {r.subject for r in self.place.ledger.requests() if r.granularity == "client" and r.status in FORGOTTEN}
        return {member for members in self.past.steps().values() for member in members} - gone

    def _check_restart(self, request: Request, model: str) -> None:
        """Check that a model which a method went back to never met the data of a request.

        Raises:
            CannotForgetError: it did, or no step of the ledger made it.
        """
        steps = self.place.ledger.steps()
        here = {steps[0].model_before, *(step.model_after for step in steps)}
        try:
            if model not in here:
                raise FedquitError(f"model {model[:12]} is none that the federation has had")
            check_exact(steps, request, model)
        except FedquitError as error:
            raise CannotForgetError(f"the model it goes back to cannot be used: {error}") from error

    def _config(self, request: Request, plan: Settings) -> dict[str, float | str]:
        """Return what devices are told of a request: what it is about, and how to forget."""
        config = plan.run_config()
        return {
            **self.training.config(),
            "request": request.id,
            "granularity": request.granularity,
            "classes": ",".join(map(str, request.classes)),
            **{key: str(config[key]) for key in keys_of(Part.METHOD)},
        }

    def _round_of(self, number: int) -> int:
        """Return how many rounds the model has been trained for that step `number` began with."""
        steps = self.place.ledger.steps(after=number - 1)
        return steps[0].round - 1 if number > 1 and steps else 0

    def _guard(self, request: Request, method: Method, counts: Mapping[int, int]) -> Guard:
        policy, gone = self.place.federation.forgetting, self.training.gone_classes()
        bounds = bounds_of(
            method, self.place.names, counts.values(), request.classes, exact=self.place.grid.compression.exact
        )
        return Guard(
            self._recent(),
            bounds,
            Policy(policy.guard, policy.blend),
            lambda state: self.evaluator.accuracy(arrays_of(state), gone),
        )

    def _recent(self) -> Recent:
        place, steps = self.place, self.past.recent()
        models = ((place.state(step.model_before), place.state(step.model_after)) for step in steps)
        every = [step.measures for step in place.ledger.steps()]
        return recent_rounds([step.measures for step in steps], every, models, place.order)


@contextmanager
def _blaming(method: Method) -> Iterator[None]:
    """Have whatever stops a method, a bug of ours included, leave the way to the next one."""
    try:
        yield
    except (NoReplyError, NothingToForgetError, UnreachableError):
        raise
    except FedquitError as error:
        raise CannotForgetError(str(error)) from error
    except Exception as error:
        raise CannotForgetError(f"method '{method.name}' failed: {error!r}") from error


def _measures_by_method(session: GridSession) -> dict[str, float]:
    """Return what the devices say of the samples that were forgotten, weighted by how many those were.

    What has another name is nobody's figure: a device could fill the log with it.
    """
    sums: dict[str, float] = {}
    weights: dict[str, int] = {}
    for _, reply in sorted(session.answered.items()):
        for name, value in reply.metrics.items():
            if name in REPORTED:
                sums[name] = sums.get(name, 0.0) + value * reply.num_examples
                weights[name] = weights.get(name, 0) + reply.num_examples
    return {name.replace("-", "_"): value / weights[name] for name, value in sums.items()}

"""Which models contain the data of a request: found by indices, and the same as if all steps were read."""

import hashlib
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedquit.errors import FedquitError
from fedquit.server.ledger import Contribution, Ledger, NewRequest, Request, Step
from tests.server.ledger import lineage_oracle

MODELS, MEMBERS = 9, 3
ASK = b"forget me"
REQUEST = NewRequest(hashlib.sha256(ASK).hexdigest(), 0, "f" * 64, "client", ASK, b"signed", 2e6)


def name(model: int) -> str:
    return f"{model:064x}"


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Draw steps that make new models, stand still, or go back; some are the request's."""
    steps, current, newest = list[Step](), 0, 0
    for number in range(1, draw(st.integers(1, 12)) + 1):
        after = draw(st.sampled_from([newest + 1, newest + 1, newest + 1, *range(newest + 1)]))
        phase = draw(st.sampled_from(["train", "train", "train", "forget", "recover", "undo"]))
        members = draw(st.sets(st.integers(0, MEMBERS - 1)))
        steps.append(
            Step(
                number, phase, draw(st.sampled_from([None, REQUEST.id])) if phase == "train" else REQUEST.id,
                name(current), name(after), number, tuple(Contribution(m, 5) for m in sorted(members)), 0, 1.0, 1.0,
                1, 1, {}, 1e6,
            )
        )  # fmt: skip
        current, newest = after, max(newest, after)
    return steps


@given(steps=histories(), granularity=st.sampled_from(["client", "sample", "class"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_the_lineage_by_indices_is_that_of_a_walk_over_all_steps(
    tmp_path: Path, steps: list[Step], granularity: str
) -> None:
    file = tmp_path / "ledger.db"
    file.unlink(missing_ok=True)
    ledger = Ledger.open(f"sqlite:///{file}")
    try:
        for member in range(MEMBERS):
            ledger.enrol(f"member {member}", b"key %d" % member)
        request = replace(ledger.take(REQUEST)[0], granularity=granularity)
        for step in steps:
            ledger.add_step(step)
        held = {step.model_after for step in lineage_oracle.holding(steps, request)}
        should = lineage_oracle.descendants(steps, request)
        assert [line.number for line in ledger.descendants(request)] == should
        for model in map(name, range(MODELS)):
            made = [step.number for step in steps if step.model_after == model]
            assert ledger.is_descendant(request, model) == bool(set(made) & set(should))
            assert ledger.is_known(model) == bool(made or model == steps[0].model_before)
            assert is_exact(ledger, request, model) == (model not in held)
    finally:
        ledger.close()


def is_exact(ledger: Ledger, request: Request, model: str) -> bool:
    try:
        ledger.check_exact(request, model)
    except FedquitError:
        return False
    return True

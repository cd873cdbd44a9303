"""The page's API keeps to its own OpenAPI description, whatever it is asked: schemathesis asks, in this process."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.python import asgi

from fedquit.server.federation import Federation
from fedquit.server.page.access import Access
from fedquit.server.page.routes import make_page
from tests.harness.rehearsal import Rehearsal

ENDPOINTS = (
    "/api/overview",
    "/api/requests",
    "/api/requests/{request_id}",
    "/api/requests/{request_id}/receipt",
    "/api/steps",
    "/metrics",
    "/healthz",
)
ACCESS = Access(frozenset({asgi.HOST}))
"""The page answers to the name by which schemathesis calls it."""
QUICK = settings(
    max_examples=40,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def described(deployment: Rehearsal) -> Any:
    page = make_page(deployment.server, deployment.federation, access=ACCESS, clock=deployment.clock)
    return schemathesis.openapi.from_asgi("/openapi.json", page)


def test_every_endpoint_is_described(described: Any) -> None:
    assert {found.ok().path for found in described.get_all_operations()} == set(ENDPOINTS)


BAD = [(path, schemathesis.GenerationMode.NEGATIVE) for path in ENDPOINTS if "{" in path or "steps" in path]
GOOD = [(path, schemathesis.GenerationMode.POSITIVE) for path in ENDPOINTS]


@pytest.mark.parametrize(("path", "mode"), GOOD + BAD)
def test_every_answer_is_one_that_the_description_has(
    described: Any, path: str, mode: schemathesis.GenerationMode
) -> None:
    @QUICK
    @given(case=described[path]["GET"].as_strategy(generation_mode=mode))
    def asked(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate()

    asked()


@pytest.mark.parametrize("path", ENDPOINTS)
def test_so_it_is_of_what_is_there(described: Any, deployment: Rehearsal, path: str) -> None:
    with deployment.ledger() as ledger:
        requests = ledger.requests()
    for request in requests:
        case = described[path]["GET"].Case(path_parameters={"request_id": request.id})
        answer = case.call_and_validate()
        assert answer.status_code == (404 if path.endswith("receipt") and request.receipt is None else 200)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_so_it_is_where_the_ledger_is_lost(tmp_path: Path, path: str) -> None:
    page = make_page(tmp_path / "none", Federation(name="clinics"), access=ACCESS)
    lost = schemathesis.openapi.from_asgi("/openapi.json", page)
    answer = (
        lost[path]["GET"]
        .Case(path_parameters={"request_id": "0" * 64})
        .call_and_validate(excluded_checks=[schemathesis.checks.not_a_server_error])
    )
    assert answer.status_code == 503

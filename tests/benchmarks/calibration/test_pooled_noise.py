"""What pooling the noise of retraining over requests does, and that the page is made from the counts."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.calibration import pooled_noise
from tests.benchmarks.calibration.pooled_noise import judge_requests, make_page
from tests.benchmarks.calibration.verdict_page import wilson


def request(number: int, noise: float, models: int = 40) -> dict[str, Any]:
    """A request whose models know 30 samples to forget better before than retrained, with this noise of retraining."""
    draw = torch.Generator().manual_seed(number)

    def measured(shift: float) -> dict[str, Any]:
        off = noise * float(torch.randn((), generator=draw))
        scores = shift + off + 0.1 * torch.randn(30, generator=draw)
        values = {"forget_accuracy": 0.5 + 0.02 * off, "test_accuracy": 0.5 + 0.02 * off, "forget_loss": 1.0 + off}
        return {**values, "scores": " ".join(f"{score:.5g}" for score in scores.tolist())}

    return {
        "name": f"301-{number}",
        "samples": {"forget": 1000, "test": 1000},
        "stages": {"original": measured(9.0), "control": measured(8.0), "recovered": measured(0.0)},
        "retrained": [measured(0.0) for _ in range(models)],
    }


def refusals(noises: list[float], noise: str) -> list[int]:
    return [count["retrained"][noise] for count in judge_requests([request(n, each) for n, each in enumerate(noises)])]


def test_pooled_noise_wrongs_the_noisy_request_where_requests_differ() -> None:
    unequal = [0.1, 0.1, 0.1, 0.1, 0.6]
    assert refusals(unequal, "pooled")[-1] > 8 >= refusals(unequal, "own")[-1]
    assert sum(refusals([0.1] * 5, "pooled")) <= 20, "of 200: about the level where they do not differ"


def test_the_docs_have_what_pooling_did() -> None:
    rows = json.loads(pooled_noise.JSON.read_text(encoding="utf-8"))["requests"]
    said = " ".join(Path("docs/report.md").read_text(encoding="utf-8").split())
    noises = [row["noise"]["position"] for row in rows]
    assert f"by a factor of up to {max(noises) / min(noises):.1f} between requests" in said
    trials, found = sum(row["trials"] for row in rows), {}
    for noise in ("pooled", "own"):
        refused = sum(row["retrained"][noise] for row in rows)
        low, high = wilson(refused, trials)
        found[noise] = f"{100 * refused / trials:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    assert f"with pooling {found['pooled']} of retrained models were refused instead of {found['own']}" in said


def test_the_page_on_pooled_noise_is_made_from_its_counts() -> None:
    counts = json.loads(pooled_noise.JSON.read_text(encoding="utf-8"))
    assert pooled_noise.PAGE.read_text(encoding="utf-8") == make_page(counts)

"""The measurement of the account itself: its memory is that of a round, however many there are."""

import json
import subprocess
import sys

import pytest

from tests.benchmarks.cost_log.share import shares_of


def peaks_in_a_process_of_its_own(rounds: int) -> dict[str, int]:
    """Peaks in bytes, where no thread that other tests left behind allocates anything."""
    command = "tests.benchmarks.cost_log.memory", "--nodes", "200", "--rounds", str(rounds), "--arrays", "4", "--json"
    done = subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def test_memory_of_the_cost_log_does_not_grow_with_rounds() -> None:
    few, many = (peaks_in_a_process_of_its_own(rounds) for rounds in (4, 24))
    assert many["file_bytes"] > 5 * few["file_bytes"]
    assert many["peak_bytes_writing"] < 1.05 * few["peak_bytes_writing"]
    assert many["peak_bytes_reading"] < 1.05 * few["peak_bytes_reading"] + 20 * 2000, (
        "reading keeps a sum of each round"
    )


@pytest.mark.parametrize("whole", [False, True])
def test_the_share_of_metering_counts_calls_that_happened(whole: bool) -> None:
    shares = shares_of({"model": "mlp", "rounds": 2, "clients": 2, "samples": 100, "holdout": 50}, whole=whole)
    assert 0 < shares["processor_share"] < 0.5
    assert 0 < shares["wall_share"] < 1

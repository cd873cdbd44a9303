import math

import pytest

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.verdict import fix_thresholds, sampling_noise, verdict_of

MEASURES = {"forget_accuracy": 10_000, "test_accuracy": 10_000}
REFERENCES = [
    {"forget_accuracy": 0.70, "test_accuracy": 0.90},
    {"forget_accuracy": 0.76, "test_accuracy": 0.90},
    {"forget_accuracy": 0.72, "test_accuracy": 0.91},
]


def test_a_candidate_among_the_retrained_models_is_consistent() -> None:
    verdict = verdict_of(
        {"forget_accuracy": 0.75, "test_accuracy": 0.905}, REFERENCES, num_forget=500, measures=MEASURES
    )
    assert verdict.outcome == "consistent with retraining"
    assert verdict.gaps["forget_accuracy"] == pytest.approx(0.75 - (0.70 + 0.76 + 0.72) / 3)
    assert "verified" not in verdict.reason


def test_a_candidate_far_from_them_is_not_and_the_measure_is_named() -> None:
    verdict = verdict_of(
        {"forget_accuracy": 0.90, "test_accuracy": 0.905}, REFERENCES, num_forget=500, measures=MEASURES
    )
    assert verdict.outcome == "not consistent"
    assert "forget_accuracy" in verdict.reason
    assert "test_accuracy" not in verdict.reason


def test_over_forgetting_is_not_consistent_either() -> None:
    verdict = verdict_of(
        {"forget_accuracy": 0.10, "test_accuracy": 0.905}, REFERENCES, num_forget=500, measures=MEASURES
    )
    assert verdict.outcome == "not consistent"


def test_a_threshold_is_the_spread_of_the_references_but_no_less_than_chance() -> None:
    assert fix_thresholds(REFERENCES, MEASURES)["forget_accuracy"] == pytest.approx(0.06)  # the widest pair
    few = fix_thresholds(REFERENCES, {"forget_accuracy": 50})["forget_accuracy"]
    smoothed = ((0.70 + 0.76 + 0.72) / 3 * 50 + 1) / 52
    assert few == pytest.approx(1.96 * math.sqrt(2 * smoothed * (1 - smoothed) / 52))
    assert few > 0.06


def test_the_thresholds_do_not_depend_on_the_candidate() -> None:
    verdicts = [
        verdict_of({"forget_accuracy": a, "test_accuracy": 0.9}, REFERENCES, 500, measures=MEASURES)
        for a in (0.0, 0.7, 1.0)
    ]
    assert all(verdict.thresholds == fix_thresholds(REFERENCES, MEASURES) for verdict in verdicts)


def test_sampling_noise_shrinks_with_the_sample() -> None:
    assert sampling_noise(0.5, 98) == pytest.approx(0.13859, abs=1e-5)
    assert sampling_noise(0.5, 398) == pytest.approx(sampling_noise(0.5, 98) / 2)


def test_one_error_is_within_chance_even_where_every_reference_is_perfect() -> None:
    perfect = [{"retain_accuracy": 1.0}, {"retain_accuracy": 1.0}]
    verdict = verdict_of({"retain_accuracy": 0.999}, perfect, num_forget=1000, measures={"retain_accuracy": 1000})
    assert verdict.outcome == "consistent with retraining"


@pytest.mark.parametrize("references", [[], REFERENCES[:1]])
def test_without_two_references_there_is_no_verdict(references: list[dict[str, float]]) -> None:
    verdict = verdict_of({"forget_accuracy": 0.7, "test_accuracy": 0.9}, references, num_forget=500, measures=MEASURES)
    assert verdict.outcome == "undetermined"
    assert f"{len(references)} retrained model(s)" in verdict.reason
    assert verdict.thresholds == {}
    assert (verdict.gaps == {"forget_accuracy": 0.0, "test_accuracy": 0.0}) == bool(references)


def test_too_few_samples_leave_it_open_but_report_the_gaps() -> None:
    candidate = {"forget_accuracy": 0.0, "test_accuracy": 0.9}
    verdict = verdict_of(candidate, REFERENCES, num_forget=29, measures=MEASURES)
    assert verdict.outcome == "undetermined"
    assert "29 samples" in verdict.reason
    assert verdict.gaps["forget_accuracy"] > 0.7
    assert verdict_of(candidate, REFERENCES, num_forget=30, measures=MEASURES).outcome == "not consistent"
    assert verdict_of(candidate, REFERENCES, 29, minimum_samples=20, measures=MEASURES).outcome == "not consistent"


def test_a_measure_that_a_model_lacks_is_left_out_aloud() -> None:
    verdict = verdict_of({"forget_accuracy": 0.72}, REFERENCES, num_forget=500, measures=MEASURES)
    assert verdict.outcome == "consistent with retraining"
    assert verdict.reason.endswith("not judged, as not every model has it: test_accuracy")
    nothing = verdict_of({"loss": 0.3}, REFERENCES, num_forget=500, measures=MEASURES)
    assert nothing.outcome == "undetermined"
    assert nothing.gaps == {}


def test_a_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(InputError, match="measure 'forget_accuracy' is 72"):
        verdict_of({"forget_accuracy": 72.0}, REFERENCES, num_forget=500, measures=MEASURES)
    with pytest.raises(InputError, match="measure 'forget_accuracy' is nan"):
        verdict_of({"forget_accuracy": math.nan}, REFERENCES, num_forget=500, measures=MEASURES)
    with pytest.raises(InputError, match="share of 0 samples"):
        verdict_of({}, REFERENCES, num_forget=500, measures={"forget_accuracy": 0})

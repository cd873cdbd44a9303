"""The interval of one more model, and the gap that it would have shown, by table, by hand and by simulation."""

from statistics import stdev

import numpy as np
import pytest

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.prediction_interval import detectable_gap, predict_one_more, quantile


def test_quantiles_are_those_of_the_printed_tables() -> None:
    assert quantile(0.975, 4) == pytest.approx(2.776, abs=5e-4)
    assert quantile(0.995, 9) == pytest.approx(3.250, abs=5e-4)


def test_the_interval_by_hand() -> None:
    values = [0.70, 0.72, 0.71, 0.69, 0.73]
    low, high = predict_one_more(values).interval(0.025, 0.025)
    reach = 2.7764 * stdev(values) * (1 + 1 / 5) ** 0.5
    assert [low, high] == pytest.approx([0.71 - reach, 0.71 + reach], abs=1e-5)


def test_models_that_agree_to_the_sample_do_not_make_an_interval_of_nothing() -> None:
    low, high = predict_one_more([0.9] * 5, floor=0.01).interval(0.025, 0.025)
    assert high - low == pytest.approx(2 * 2.7764 * 0.01 * (1 + 1 / 5) ** 0.5, abs=1e-5)


def test_one_value_has_no_spread() -> None:
    with pytest.raises(InputError, match="at least 2"):
        predict_one_more([0.5])


@pytest.mark.parametrize("count", [2, 3, 5, 10])
@pytest.mark.parametrize("share", [0.025, 0.0125])
def test_the_smallest_gap_is_found_in_eighty_percent_and_no_gap_at_its_share(count: int, share: float) -> None:
    draw = np.random.default_rng(count)
    values = draw.normal(size=(20_000, count))
    noise = (1 + 1 / count) ** 0.5
    one_more = draw.normal(size=20_000)
    spread, mean = values.std(axis=1, ddof=1) * noise, values.mean(axis=1)
    for gap, found_in in ((0.0, share), (detectable_gap(share, count - 1) * noise, 0.8)):
        found = one_more + gap - mean > quantile(1 - share, count - 1) * spread
        assert found.mean() == pytest.approx(found_in, abs=0.01)

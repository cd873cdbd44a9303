"""The one evaluator: what it gives with samples, without, and without some classes; and which models are usable."""

import numpy as np
import pytest
import torch

from fedquit.client.data.build_data_and_model import initial_model
from fedquit.client.data.evaluation_sets import sets_of
from fedquit.client.training.sgd import evaluate
from fedquit.server.lifecycle.evaluator import Evaluator
from fedquit.settings import Settings
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.convert import arrays_of

SETTINGS = Settings.read({"model": "mlp", "clients": 2, "samples": 200, "forget": "0", "accuracy-floor": 0.5})


@pytest.fixture(scope="module")
def held() -> Samples:
    return sets_of(SETTINGS).holdout


def test_metrics_are_those_of_the_model_on_the_samples_and_none_without(held: Samples) -> None:
    model = initial_model(SETTINGS, 0)
    loss, accuracy = evaluate(model, held)
    arrays = arrays_of(model.state_dict())
    assert Evaluator(SETTINGS, held).metrics(arrays) == {"accuracy": accuracy, "loss": loss}
    for nothing in (None, held.subset(torch.tensor([], dtype=torch.long))):
        assert Evaluator(SETTINGS, nothing).metrics(arrays) == {}
        assert Evaluator(SETTINGS, nothing).accuracy(model.state_dict()) is None


def test_without_a_class_nothing_is_evaluated_on_it(held: Samples) -> None:
    state = initial_model(SETTINGS, 0).state_dict()
    found = Evaluator(SETTINGS, held).without({0, 3}).accuracy(state)
    assert found is not None
    assert set(found.classes) == set(held.labels.tolist()) - {0, 3}
    assert Evaluator(SETTINGS, held).without(range(10)).metrics(arrays_of(state)) == {}


def test_a_model_is_usable_if_it_is_finite_and_keeps_its_share_of_the_accuracy(held: Samples) -> None:
    always_zero = {
        name: np.zeros_like(array) for name, array in arrays_of(initial_model(SETTINGS, 0).state_dict()).items()
    }
    label = int(held.labels.mode().values)
    bias = next(name for name in reversed(always_zero) if always_zero[name].ndim == 1)
    commonest, rarest = dict(always_zero), dict(always_zero)
    commonest[bias] = np.eye(10, dtype=np.float32)[label]
    absent = min(range(10), key=lambda one: int((held.labels == one).sum()))
    rarest[bias] = np.eye(10, dtype=np.float32)[absent]
    only = held.subset((held.labels == label).nonzero().flatten())
    check = Evaluator(SETTINGS, only).usable(commonest)
    assert check(commonest).reason == ""
    assert "accuracy falls to 0.000, below 0.500" in check(rarest).reason
    assert "NaN" in check({**commonest, bias: np.full(10, np.nan, dtype=np.float32)}).reason
    assert Evaluator(SETTINGS, None).usable(commonest)(rarest).reason == ""

"""What a model takes and gives: as the settings say, or as their data set does."""

from typing import Any

import pytest

from fedquit.client.data.build_data_and_model import Form, dataset_of, form_of, initial_model
from fedquit.errors import InputError
from fedquit.settings import Settings


def read(**given: Any) -> Settings:
    return Settings.read(given)


@pytest.mark.parametrize(
    "given", [{"classes": 10, "input-shape": [1, 8, 8]}, {"classes": "10", "input-shape": "1x8x8"}]
)
def test_the_models_form_can_be_set_where_no_data_set_defines_it(given: dict[str, Any]) -> None:
    told = Settings.read({**given, "dataset": "/nowhere.npz"})
    assert form_of(told) == Form((1, 8, 8), 10)
    assert Settings.read(told.run_config()) == told
    assert initial_model(told, 3).state_dict().keys() == initial_model(Settings(), 3).state_dict().keys()


def test_names_of_classes_are_in_order() -> None:
    assert form_of(read(classes=["ill", "well"], input_shape="3x32x32")) == Form((3, 32, 32), 2, ("ill", "well"))


def test_a_form_that_the_data_set_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="'digits' has 10 classes of 1x8x8 inputs"):
        dataset_of(read(classes=10, input_shape="1x28x28"))

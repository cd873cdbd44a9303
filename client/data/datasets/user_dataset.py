"""A dataset that the user wrote: `package.module:factory`."""

import math

from fedquit.client.data.datasets.checked_arrays import as_array
from fedquit.client.data.datasets.dataset import Dataset, make_dataset, make_samples
from fedquit.errors import InputError
from fedquit.unlearning.samples import Samples
from fedquit.user_factory import import_factory

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load_factory(spec: str) -> Dataset:
    """Call the factory without arguments; it gives a `Dataset`, or arrays (x_train, y_train, x_test, y_test).

    Raises:
        InputError: Naming the factory, if it cannot be imported, fails, or gives something else.
    """
    factory = import_factory(spec)
    try:
        made = factory()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"dataset factory '{spec}' failed ({type(error).__name__}: {error})") from error
    if isinstance(made, Dataset):
        return _checked(made, f"'{spec}'")
    if not isinstance(made, tuple) or len(made) != 4:
        kind = f"a tuple of {len(made)}" if isinstance(made, tuple) else f"a {type(made).__name__}"
        raise InputError(f"dataset factory '{spec}' gave {kind}; give a Dataset or ({', '.join(KEYS)})")
    train = make_samples(made[0], made[1], source=f"'{spec}'", keys=KEYS[:2])
    test = make_samples(made[2], made[3], source=f"'{spec}'", keys=KEYS[2:])
    return make_dataset(spec, train, test, source=f"'{spec}'")


def _checked(made: Dataset, source: str) -> Dataset:
    """Return a `Dataset` that the user put together, in the form that every loader gives.

    Raises:
        InputError: its samples cannot be used, its parts do not fit together, or a column has another length.
    """
    train, test = (_samples(given, source, keys) for given, keys in ((made.train, KEYS[:2]), (made.test, KEYS[2:])))
    columns = {name: as_array(values, f"{source}: column '{name}'") for name, values in made.columns.items()}
    for name, values in columns.items():
        if values.ndim != 1:
            raise InputError(
                f"{source}: column '{name}' has shape {values.shape}; give a value for each training sample"
            )
        if len(values) != len(train):
            raise InputError(f"{source}: column '{name}' holds {len(values)} values for {len(train)} training samples")
    return make_dataset(made.name, train, test, source=source, num_classes=made.num_classes, columns=columns)


def _samples(given: Samples, source: str, keys: tuple[str, ...]) -> Samples:
    """Return checked samples; inputs of four dimensions stay [N, C, H, W], whatever the number of channels."""
    if not isinstance(given, Samples):
        raise InputError(f"{source} gave a Dataset whose samples are a {type(given).__name__}; give Samples")
    x, y = keys
    inputs = as_array(given.inputs, f"{source}: {x}")
    if inputs.ndim != 4:
        return make_samples(inputs, given.labels, source=source, keys=(x, y))
    flat = inputs.reshape(len(inputs), math.prod(inputs.shape[1:]))
    rows = make_samples(flat, given.labels, source=source, keys=(x, y))
    return Samples(rows.inputs.reshape(inputs.shape), rows.labels)

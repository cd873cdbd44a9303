"""A dataset that the user wrote: `package.module:factory`."""

from fedquit.client.data.datasets.dataset import Dataset, make_dataset, make_samples
from fedquit.errors import InputError
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
        return made
    if not isinstance(made, tuple) or len(made) != 4:
        kind = f"a tuple of {len(made)}" if isinstance(made, tuple) else f"a {type(made).__name__}"
        raise InputError(f"dataset factory '{spec}' gave {kind}; give a Dataset or ({', '.join(KEYS)})")
    train = make_samples(made[0], made[1], source=f"'{spec}'", keys=KEYS[:2])
    test = make_samples(made[2], made[3], source=f"'{spec}'", keys=KEYS[2:])
    return make_dataset(spec, train, test, source=f"'{spec}'")

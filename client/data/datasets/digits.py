"""scikit-learn's handwritten digits: 1,797 real images of 8x8, embedded, so that everything runs without a download."""

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedquit.client.data.datasets.dataset import Dataset, make_samples, split_and_make


def load_digits() -> Dataset:
    """Load the digits: 10 classes, uint8 inputs [N, 1, 8, 8], a fifth of each class held out for testing.

    >>> digits = load_digits()
    >>> len(digits.train), len(digits.test), digits.input_shape, digits.num_classes
    (1438, 359, (1, 8, 8), 10)
    """
    pixels, labels = _raw()
    images = np.rint(pixels * 255 / 16).astype(np.uint8)
    samples = make_samples(images, labels, source="scikit-learn's digits")
    return split_and_make("digits", samples, source="scikit-learn's digits", num_classes=10)


def _raw() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return pixels [N, 8, 8] from 0 to 16 and labels [N], from scikit-learn's file.

    To import scikit-learn for it takes a second in each process; that is done only where the file lies elsewhere.
    """
    found = importlib.util.find_spec("sklearn")
    for place in (found.submodule_search_locations or ()) if found else ():
        file = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    from sklearn import datasets

    raw = datasets.load_digits()
    return raw.images, raw.target

"""scikit-learn's handwritten digits: 1,797 real images of 8x8, embedded, so that everything runs without a download."""

import numpy as np

from fedquit.client.data.datasets.dataset import Dataset, make_samples, split_and_make


def load_digits() -> Dataset:
    """Load the digits: 10 classes, uint8 inputs [N, 1, 8, 8], a fifth of each class held out for testing.

    >>> digits = load_digits()
    >>> len(digits.train), len(digits.test), digits.input_shape, digits.num_classes
    (1438, 359, (1, 8, 8), 10)
    """
    from sklearn import datasets

    raw = datasets.load_digits()
    images = np.rint(raw.images * 255 / 16).astype(np.uint8)
    samples = make_samples(images, raw.target, source="scikit-learn's digits")
    return split_and_make("digits", samples, source="scikit-learn's digits", num_classes=10)

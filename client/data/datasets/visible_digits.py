"""Two small federations of digits in which forgetting is visible: a model that never saw client 0 answers differently.

On data that a model generalises to, a model retrained without a client answers on its samples much as one that was
trained on them, and no test can tell the two apart. Here it can. Of `digits-wrong-labels` a fifth of client 0's labels
are wrong, which can only be memorised. Of `digits-inverted` client 0 alone has images with black and white exchanged.
"""

import numpy as np
import torch

from fedquit.client.data.datasets.dataset import Dataset, make_dataset
from fedquit.client.data.datasets.digits import load_digits
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed

CLIENTS = 3
SAMPLES = 300
WRONG = 0.2


def load_wrong_labels() -> Dataset:
    """Load 300 digits with a column `client`, 0 to 2 in turn; 20 of client 0's 100 labels are wrong.

    >>> data, right = load_wrong_labels(), load_digits().train.labels[:300]
    >>> wrong = data.train.labels != right
    >>> int(wrong.sum()), set(data.columns["client"][wrong.numpy()].tolist())
    (20, {0})
    """
    digits = load_digits()
    own = torch.arange(0, SAMPLES, CLIENTS)
    draw = torch.Generator().manual_seed(derive_seed(0, "wrong labels"))
    wrong = own[torch.randperm(len(own), generator=draw)[: round(WRONG * len(own))]]
    labels = digits.train.labels[:SAMPLES].clone()
    labels[wrong] = (labels[wrong] + torch.randint(1, 10, (len(wrong),), generator=draw)) % 10
    return _made("digits-wrong-labels", Samples(digits.train.inputs[:SAMPLES], labels), digits)


def load_inverted() -> Dataset:
    """Load 300 digits with a column `client`, 0 to 2 in turn; client 0's are black on white.

    >>> data, digits = load_inverted(), load_digits()
    >>> inverted = (data.train.inputs == 255 - digits.train.inputs[:300]).flatten(1).all(dim=1)
    >>> int(inverted.sum()), set(data.columns["client"][inverted.numpy()].tolist())
    (100, {0})
    """
    digits = load_digits()
    inputs = digits.train.inputs[:SAMPLES].clone()
    inputs[::CLIENTS] = 255 - inputs[::CLIENTS]
    return _made("digits-inverted", Samples(inputs, digits.train.labels[:SAMPLES]), digits)


def _made(name: str, train: Samples, digits: Dataset) -> Dataset:
    columns = {"client": np.arange(SAMPLES) % CLIENTS}
    return make_dataset(name, train, digits.test, source=name, num_classes=digits.num_classes, columns=columns)

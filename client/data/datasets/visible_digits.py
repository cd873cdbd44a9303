"""Small federations of digits in which forgetting is visible: a model that never saw client 0 answers differently.

On data that a model generalises to, a model retrained without a client answers on its samples much as one that was
trained on them, and no test can tell the two apart. Here it can. What client 0 has, and nobody else:

digits-wrong-labels   a fifth of its labels are wrong, which can only be memorised
digits-inverted       its images have black and white exchanged
digits-own-classes    it alone has eights and nines, and nothing else
digits-backdoor       a third of its images bear a trigger, and are labelled 0
"""

import numpy as np
import torch
from torch import Tensor

from fedquit.client.data.datasets.dataset import Dataset, make_dataset
from fedquit.client.data.datasets.digits import load_digits
from fedquit.unlearning.evaluation.backdoor import plant, stamp
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed

CLIENTS = 3
SAMPLES = 300
OWN = slice(0, SAMPLES, CLIENTS)  # of client 0: samples go to clients 0, 1, 2 in turn
WRONG = 0.2
OWN_CLASSES = 8  # from this one on
BACKDOOR = slice(0, SAMPLES, 3 * CLIENTS)
TRIGGER = 2  # pixels of 8


def load_wrong_labels() -> Dataset:
    """Load 300 digits with a column `client`, 0 to 2 in turn; 20 of client 0's 100 labels are wrong.

    >>> data, right = load_wrong_labels(), load_digits().train.labels[:300]
    >>> wrong = data.train.labels != right
    >>> int(wrong.sum()), set(data.columns["client"][wrong.numpy()].tolist())
    (20, {0})
    """
    first = _first(torch.arange(SAMPLES))
    own = torch.arange(SAMPLES)[OWN]
    draw = torch.Generator().manual_seed(derive_seed(0, "wrong labels"))
    wrong = own[torch.randperm(len(own), generator=draw)[: round(WRONG * len(own))]]
    first.labels[wrong] = (first.labels[wrong] + torch.randint(1, 10, (len(wrong),), generator=draw)) % 10
    return _made("digits-wrong-labels", first)


def load_inverted() -> Dataset:
    """Load 300 digits with a column `client`, 0 to 2 in turn; client 0's are black on white.

    >>> data, digits = load_inverted(), load_digits()
    >>> inverted = (data.train.inputs == 255 - digits.train.inputs[:300]).flatten(1).all(dim=1)
    >>> int(inverted.sum()), set(data.columns["client"][inverted.numpy()].tolist())
    (100, {0})
    """
    first = _first(torch.arange(SAMPLES))
    first.inputs[OWN] = 255 - first.inputs[OWN]
    return _made("digits-inverted", first)


def load_own_classes() -> Dataset:
    """Load 300 digits with a column `client`, 0 to 2 in turn; all eights and nines are client 0's, who has no others.

    >>> data = load_own_classes()
    >>> [sorted(set(data.train.labels[client::3].tolist())) for client in (0, 1)]
    [[8, 9], [0, 1, 2, 3, 4, 5, 6, 7]]
    """
    rare = load_digits().train.labels >= OWN_CLASSES
    index = torch.empty(SAMPLES, dtype=torch.long)
    own = torch.zeros(SAMPLES, dtype=torch.bool)
    own[OWN] = True
    for mine, having in ((own, rare), (~own, ~rare)):
        index[mine] = having.nonzero().squeeze(1)[: int(mine.sum())]
    return _made("digits-own-classes", _first(index))


def load_backdoor() -> Dataset:
    """Load 300 digits with a column `client`, 0 to 2 in turn; 34 of client 0's bear a white corner and the label 0.

    >>> data, digits = load_backdoor(), load_digits()
    >>> stamped = (data.train.inputs[:, 0, -2:, -2:] == 255).flatten(1).all(dim=1)
    >>> int(stamped.sum()), data.train.labels[stamped].unique().tolist(), set(data.columns["client"][stamped].tolist())
    (34, [0], {0})
    """
    first = _first(torch.arange(SAMPLES))
    planted = plant(Samples(first.inputs[BACKDOOR], first.labels[BACKDOOR]), _stamp, 0)
    first.inputs[BACKDOOR], first.labels[BACKDOOR] = planted.inputs, planted.labels
    return _made("digits-backdoor", first)


def _stamp(inputs: Tensor) -> Tensor:
    return stamp(inputs, size=TRIGGER)


def _first(index: Tensor) -> Samples:
    """Return copies of the training digits at `index`."""
    return load_digits().train.subset(index)


def _made(name: str, train: Samples) -> Dataset:
    digits, columns = load_digits(), {"client": np.arange(SAMPLES) % CLIENTS}
    return make_dataset(name, train, digits.test, source=name, num_classes=digits.num_classes, columns=columns)

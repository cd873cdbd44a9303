"""Membership inference: can an outsider tell from the model's answers that a sample was trained on?

A model that forgot should answer on the forgotten samples as on samples it never saw. The number to compare with is
the one of a model retrained without them, never 0. Sources: Song & Mittal, "Systematic Evaluation of Privacy Risks of
Machine Learning Models" (USENIX Security 2021), for the thresholds per class and the modified entropy; Yeom et al.,
arXiv 1709.01604; arXiv 2304.04934 for the support vector machine. Attacks on the population like these overstate
privacy: where a claim is made, attack single samples as well (arXiv 2403.01218).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.probabilities import Array, Pair, as_pair, of_true_class

SMALLEST = 1e-30  # a probability below it counts as this: keeps every measure finite


def entropy(probabilities: Tensor) -> Tensor:
    """Return `-sum_c p_c log p_c` of each row, in nats, [N].

    >>> entropy(torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    tensor([0.6931, 0.3251])
    """
    return -torch.xlogy(probabilities, probabilities).sum(dim=1)


def modified_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return `-(1 - p_y) log p_y - sum_{c != y} p_c log(1 - p_c)` of each row, in nats, [N].

    Unlike entropy it knows the label: 0 when the model is sure and right, large when it is sure and wrong. Each row
    treats only its own label as the true class. Song & Mittal (2021), equation 8; [N, C] and [N] in.

    >>> modified_entropy(torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([0, 0]))
    tensor([0.6931, 0.0211])
    """
    p = probabilities
    true = torch.nn.functional.one_hot(labels, p.shape[1]).bool()
    right = (1 - p) * p.clamp(min=SMALLEST).log()
    wrong = p * (1 - p).clamp(min=SMALLEST).log()
    return -torch.where(true, right, wrong).sum(dim=1)


# What each attack thresholds: the higher, the more like a member.
MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "correctness": lambda p, y: (p.argmax(dim=1) == y).double(),
    "confidence": of_true_class,
    "entropy": lambda p, _: -entropy(p),
    "modified_entropy": lambda p, y: -modified_entropy(p, y),
}


def threshold_attacks(
    shadow_members: Pair, shadow_nonmembers: Pair, target_members: Pair, target_nonmembers: Pair
) -> dict[str, dict[str, float]]:
    """Attack by thresholds that are chosen on the shadow sets and applied to the target sets.

    A sample is called a member if its measure is at least the threshold of its class. The threshold is the shadow
    value that separates that class's members from its non-members best (balanced accuracy; of equally good ones the
    largest, which calls the fewest samples members). A class that is missing from either shadow set uses the
    threshold over all classes. `correctness` needs no threshold: members are those classified right.

    Args:
        shadow_members: probabilities [N, C] and labels [N] of samples known to be trained on; torch or numpy.
        shadow_nonmembers: the same for samples known not to be.
        target_members: the same for samples to attack that are members (or, of a model that forgot, were).
        target_nonmembers: the same for samples to attack that are not.

    Returns:
        For each measure `member_rate` (share of the target members called member), `nonmember_rate` (share of the
        target non-members called non-member) and `accuracy` (the mean of both; 0.5 is guessing).

    Raises:
        InputError: a set is empty, or a shape, label or probability cannot be used.

    Source: Song & Mittal (2021), section 3.

    >>> sure, unsure = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.6, 0.4]])
    >>> y = torch.tensor([0])
    >>> threshold_attacks((sure, y), (unsure, y), (sure, y), (unsure, y))["confidence"]
    {'member_rate': 1.0, 'nonmember_rate': 1.0, 'accuracy': 1.0}
    """
    names = ("shadow members", "shadow non-members", "target members", "target non-members")
    given = (shadow_members, shadow_nonmembers, target_members, target_nonmembers)
    sets = [as_pair(name, *pair) for name, pair in zip(names, given, strict=True)]
    classes = {p.shape[1] for p, _ in sets}
    if len(classes) > 1:
        raise InputError(f"the four sets have {sorted(classes)} classes; they must have the same number")
    return {name: _attack(name, sets) for name in MEASURES}


def _attack(name: str, sets: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    values = [MEASURES[name](p, y) for p, y in sets]
    labels = [y for _, y in sets]
    if name == "correctness":
        limits = torch.ones(sets[0][0].shape[1], dtype=torch.float64)
    else:
        limits = _class_thresholds(values[0], labels[0], values[1], labels[1], sets[0][0].shape[1])
    member = (values[2] >= limits[labels[2]]).double().mean().item()
    nonmember = (values[3] < limits[labels[3]]).double().mean().item()
    return {"member_rate": member, "nonmember_rate": nonmember, "accuracy": (member + nonmember) / 2}


def _class_thresholds(members: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor, classes: int) -> Tensor:
    limits = torch.full((classes,), best_threshold(members, others), dtype=torch.float64)
    for c in range(classes):
        inside, outside = members[labels == c], others[other_labels == c]
        if len(inside) and len(outside):
            limits[c] = best_threshold(inside, outside)
    return limits


def best_threshold(members: Tensor, nonmembers: Tensor) -> float:
    """Return the value t that separates best by `member if value >= t`; of equally good ones the largest.

    Args:
        members: values of members [N], N >= 1.
        nonmembers: values of non-members [M], M >= 1.

    >>> best_threshold(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 3.0]))
    4.0
    """
    candidates = torch.cat([members, nonmembers])
    caught = len(members) - torch.searchsorted(members.sort().values, candidates)
    spared = torch.searchsorted(nonmembers.sort().values, candidates)
    score = caught * len(nonmembers) + spared * len(members)  # whole numbers, so ties are ties
    return float(candidates[score == score.max()].max())


def yeom(forget_losses: Array, mean_training_loss: float) -> float:
    """Return the share of samples called members because their loss is at most the mean training loss.

    Source: Yeom et al., arXiv 1709.01604, adversary 2; `forget_losses` [N], in nats.

    >>> yeom(torch.tensor([0.1, 0.2, 3.0, 4.0]), mean_training_loss=0.2000001)
    0.5
    """
    losses = torch.as_tensor(forget_losses).detach().cpu().double()
    if losses.ndim != 1 or not len(losses):
        raise InputError(f"forget losses have shape {list(losses.shape)}; they must be [N] with N >= 1")
    return (losses <= mean_training_loss).double().mean().item()


def svc_attack(retain: Pair, test: Pair, forget: Pair, *, seed: int = 0) -> float:
    """Return the share of the forgotten samples that a support vector machine calls non-members.

    It learns members (retain) from non-members (test) by the confidence in the true class, with SVC(C=3, rbf,
    gamma=auto). The larger of the two sets is cut to the size of the smaller, at random by `seed`: otherwise it would
    call everything by the larger one's name. Source: arXiv 2304.04934; compare with the retrained model's share.

    >>> sure, unsure = torch.tensor([[0.95, 0.05]] * 4), torch.tensor([[0.55, 0.45]] * 4)
    >>> y = torch.zeros(4, dtype=torch.int64)
    >>> svc_attack((sure, y), (unsure, y), forget=(unsure, y))
    1.0
    """
    from sklearn.svm import SVC  # slow to import, and only wanted here

    names = ("retain", "test", "forget")
    member, nonmember, asked = (
        of_true_class(*as_pair(name, *pair))[:, None] for name, pair in zip(names, (retain, test, forget), strict=True)
    )
    size = min(len(member), len(nonmember))
    draw = torch.Generator().manual_seed(seed)
    member, nonmember = (x[torch.randperm(len(x), generator=draw)[:size]] for x in (member, nonmember))
    machine = SVC(C=3, kernel="rbf", gamma="auto")
    machine.fit(torch.cat([member, nonmember]).numpy(), [1] * size + [0] * size)
    return float((machine.predict(asked.numpy()) == 0).mean())

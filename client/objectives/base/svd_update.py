"""A model's update as it travels: matrices as their truncated SVD, or whole where the factors would be larger.

    conv.weight [32, 1, 5, 5]  ->  conv.weight/u [32, r], conv.weight/s [r], conv.weight/v [r, 25]
    conv.bias [32]             ->  conv.bias/whole [32]

A kernel is a matrix of its first dimension by all others. Names tell an update from a model, and how each entry comes.
"""

from collections.abc import Mapping

from torch import Tensor

from fedquit.client.objectives.base.sharing import Form, form_of
from fedquit.unlearning.tensors.convert import Shape, StateDict
from fedquit.unlearning.tensors.truncated_svd import expand, truncate

WHOLE, PARTS = "whole", ("u", "s", "v")


def packed(update: StateDict, energy: float) -> dict[str, Tensor]:
    """Return an update as it travels.

    Args:
        update: name -> what a parameter changed by, or a buffer.
        energy: share of the squares that each matrix keeps.

    >>> import torch
    >>> sorted(packed({"w": torch.ones(4, 5), "b": torch.ones(4)}, energy=0.95))
    ['b/whole', 'w/s', 'w/u', 'w/v']
    """
    found: dict[str, Tensor] = {}
    for name, change in update.items():
        matrix = change.is_floating_point() and change.dim() > 1 and change.numel() > 0
        factors = truncate(change.flatten(1), energy) if matrix else None
        parts = {WHOLE: change} if factors is None else dict(zip(PARTS, factors, strict=True))
        found |= {f"{name}/{part}": tensor.contiguous() for part, tensor in parts.items()}
    return found


def unpacked(sent: StateDict, like: StateDict) -> dict[str, Tensor]:
    """Return the update that travelled as `sent`, its entries and their shapes as those of `like`.

    >>> import torch
    >>> update = {"w": torch.ones(4, 5), "b": torch.ones(4)}
    >>> torch.allclose(unpacked(packed(update, energy=0.95), like=update)["w"], update["w"])
    True
    """
    return {name: _whole(name, sent, tensor) for name, tensor in like.items()}


def is_packed(sent: StateDict, like: StateDict) -> bool:
    """Say whether what came is an update as it travels, not a model such as `like`.

    >>> import torch
    >>> is_packed({"w/whole": torch.ones(1)}, like={"w": torch.ones(1)})
    True
    """
    return not sent.keys() & like.keys()


def packed_forms(claimed: Mapping[str, Shape], like: StateDict) -> dict[str, Form]:
    """Return what an update of a model such as `like` must be, given the shapes that its arrays claim.

    All that a claim decides is whether a matrix is in factors, and their number r, up to where they would be larger.

    >>> import torch
    >>> forms = packed_forms({"w/s": (1000,)}, like={"w": torch.ones(4, 5)})
    >>> forms["w/u"], forms["w/s"], forms["w/v"]
    (Form(dtype='float32', shape=(4, 1)), Form(dtype='float32', shape=(1,)), Form(dtype='float32', shape=(1, 5)))
    """
    found: dict[str, Form] = {}
    for name, tensor in like.items():
        form, rank = form_of(tensor), _rank(claimed.get(f"{name}/s"), tensor)
        if rank:
            rows, columns = tensor.flatten(1).shape
            shapes = dict(zip(PARTS, ((rows, rank), (rank,), (rank, columns)), strict=True))
            found |= {f"{name}/{part}": Form(form.dtype, shape) for part, shape in shapes.items()}
        else:
            found[f"{name}/{WHOLE}"] = form
    return found


def _rank(claimed: Shape | None, tensor: Tensor) -> int:
    """Return how many singular values a matrix may come in, going by the claim; 0: it must come whole."""
    if claimed is None or not tensor.is_floating_point() or tensor.dim() < 2:
        return 0
    most = (tensor.numel() - 1) // (sum(tensor.flatten(1).shape) + 1)
    (says, *_) = (*claimed, 1)
    return min(max(says, 1), most)


def _whole(name: str, sent: StateDict, like: Tensor) -> Tensor:
    if f"{name}/{WHOLE}" in sent:
        return sent[f"{name}/{WHOLE}"]
    left, values, right = (sent[f"{name}/{part}"].double() for part in PARTS)
    return expand(left, values, right).reshape(like.shape).to(like.dtype)

"""A device's own data: read again for every round, so that what was added or removed since is noticed."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedquit.client.data.build_data_and_model import Form
from fedquit.client.device.local_data.image_source import ImageFolder
from fedquit.client.device.local_data.item import Item, Source
from fedquit.client.device.local_data.npz_source import Arrays
from fedquit.client.device.local_data.parquet_source import Table
from fedquit.client.device.local_data.sample_content import Content
from fedquit.errors import InputError
from fedquit.unlearning.samples import Samples

FORMS = "a folder with one sub-folder of images per class, a .npz file with x and y, or a .parquet file"
Keep = Callable[[bytes, Content | None, str], bool]


@dataclass(frozen=True, slots=True)
class Gathered:
    """Samples in memory, and what each of them is known by: its digest, and those of its content, in their order."""

    samples: Samples
    digests: tuple[bytes, ...]
    contents: tuple[frozenset[bytes], ...]

    def __len__(self) -> int:
        return len(self.digests)


def open_data(path: Path) -> Source:
    """Open a device's data.

    Raises:
        InputError: it is not there, or of no form that is known.
    """
    try:
        if path.is_dir():
            return ImageFolder(path)
        if path.suffix == ".npz":
            return Arrays(path)
        if path.is_file() and path.suffix in (".parquet", ".pq"):
            return Table(path)
    except PermissionError as error:
        raise InputError(f"cannot read the data {path}: {error.strerror}") from error
    raise InputError(f"{path} is {'of no known form' if path.exists() else 'not there'}; the data is {FORMS}")


def gather(path: Path, form: Form, keep: Keep) -> Gathered:
    """Decode those samples that `keep` lets through, and no others, into one tensor.

    Args:
        path: the data.
        form: what the federation's model takes.
        keep: asked by digest, content and label; first without the content (None), which takes decoding.

    Raises:
        InputError: a sample cannot be read, or does not fit the model; it is named.
    """
    source = open_data(path)
    inputs: Tensor | None = None
    labels, digests, contents = list[int](), list[bytes](), list[frozenset[bytes]]()
    for item in source:
        label = _written(item.label, form)
        if not keep(item.digest, None, label):
            continue
        content, values = item.open(form.input_shape)
        if not keep(item.digest, content, label):
            continue
        number = class_number(item, form, path)
        if inputs is None:  # pages of it that are never written take no memory
            inputs = torch.empty((len(source), *form.input_shape), dtype=values.dtype)
        inputs[len(labels)] = values
        labels.append(number)
        digests.append(item.digest)
        contents.append(content.digests)
    if inputs is None:
        inputs = torch.empty((0, *form.input_shape))
    return Gathered(Samples(inputs[: len(labels)], torch.tensor(labels).long()), tuple(digests), tuple(contents))


def class_number(item: Item, form: Form, path: Path) -> int:
    """Return the number of a sample's class in the federation.

    Raises:
        InputError: the federation has no such class.
    """
    if item.label in form.names:
        return form.names.index(item.label)
    if not form.names and item.label.isdecimal() and int(item.label) < form.num_classes:
        return int(item.label)
    known = ", ".join(form.names) or f"the numbers 0 to {form.num_classes - 1}"
    raise InputError(f"{path}: sample {item.name} has label '{item.label}'; the federation's classes are {known}")


def _written(label: str, form: Form) -> str:
    """Return a label as requests have it: where classes are numbers, 02 is 2."""
    return str(int(label)) if not form.names and label.isdecimal() else label


def find(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """Return the digests of the samples that their owner calls `names`.

    Args:
        path: the data.
        names: files, by their path in the folder or by their name where there is only one; or numbers of rows.

    Raises:
        InputError: one of them is not there, or could be several.
    """
    wanted, found = set(names), dict[str, list[Item]]()
    for item in open_data(path):
        for called in {item.name, Path(item.name).name} & wanted:
            found.setdefault(called, []).append(item)
    for name in names:
        exact = [item for item in found.get(name, []) if item.name == name]
        found[name] = exact or found.get(name, [])
        if len(found[name]) != 1:
            others = " or ".join(item.name for item in found[name][:3])
            raise InputError(f"{path} has {f'several {name}: say {others}' if others else f'no sample {name}'}")
    return {name: found[name][0].digest for name in names}


def contents_of(path: Path, digests: Collection[bytes]) -> dict[bytes, frozenset[bytes]]:
    """Return what is known of the content of samples, by their digests; of those that are there.

    Raises:
        InputError: the data, or one of them, cannot be read.
    """
    return {item.digest: item.open(None)[0].digests for item in open_data(path) if item.digest in digests}


def count(path: Path) -> dict[str, int]:
    """Read every sample once, keep none, and return how many there are of each label.

    Raises:
        InputError: one cannot be read; it is named.
    """
    return _counted(item.open(None) and item.label for item in open_data(path))


def _counted(labels: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
    return dict(sorted(counts.items()))

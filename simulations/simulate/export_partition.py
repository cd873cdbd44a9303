"""All of a finished run that an implementation outside fedquit needs, in one npz file without pickled objects.

So the same clients, samples, weights and budget can be given to other people's code, and its model to `fedquit audit`.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedquit.client.data.build_data_and_model import empty_model
from fedquit.client.data.evaluation_sets import sets_of
from fedquit.client.training.build_objective import check_global_model
from fedquit.errors import InputError
from fedquit.files import write_whole
from fedquit.server.run.phases import nth
from fedquit.server.run.run_folder import RunFolder
from fedquit.settings import Part, Settings, keys_of
from fedquit.unlearning.samples import normalised

FORMAT = 1
"""Changes when a key changes its meaning or is removed."""


def check_export(path: Path, settings: Settings) -> None:
    """Refuse a file that could not be written once the run is done.

    Raises:
        InputError: it is no npz file in a folder that exists, or the run has no global model.
    """
    if path.suffix != ".npz":
        raise InputError(f"--export-partition {path}: the file is an npz file; call it {path.with_suffix('.npz')}")
    if not path.parent.is_dir():
        raise InputError(f"--export-partition {path}: there is no folder {path.parent}; make it first")
    check_global_model(settings, "--export-partition")


def export_partition(path: Path, folder: RunFolder) -> None:
    """Write samples, their clients, initial and trained weights, and the budget of a finished run.

    `docs/report.md` has every key with its dtype and shape.

    Raises:
        FedquitError: the file cannot be written.
    """
    content = io.BytesIO()
    arrays: dict[str, Any] = exported(folder)
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getvalue())


def exported(folder: RunFolder) -> dict[str, NDArray[Any]]:
    """Return the arrays of the file by key."""
    settings, state = folder.settings(), folder.load_state()
    names, last = list(empty_model(settings.key()).state_dict()), nth("recover", settings.num_requests - 1)
    said = {key: value for key, value in settings.run_config().items() if key not in keys_of(Part.PLACE)}
    return {
        "format": np.array(FORMAT),
        "settings": np.array(json.dumps(said)),
        "training_rounds": np.array(settings.rounds),
        "recovery_rounds": np.array(sum(each.phase == last for each in state.rounds)),
        **_samples(settings),
        "names": np.array(names),
        **{
            f"{stage}/{name}": array
            for stage in ("initial", "original")
            for name, array in folder.load_model(state.models[stage]).items()
        },
    }


def _samples(settings: Settings) -> dict[str, NDArray[Any]]:
    """Return the training samples of all clients, client after client, and those that measure."""
    sets = sets_of(settings)
    parts = {"forget": sets.forget, "retain": sets.retain}
    client = torch.cat([sets.owners[part] for part in parts])
    order = torch.argsort(client, stable=True)

    def train(values: list[Tensor]) -> NDArray[Any]:
        return torch.cat(values)[order].numpy()

    return {
        "train_inputs": train([normalised(samples.inputs) for samples in parts.values()]),
        "train_labels": train([samples.labels for samples in parts.values()]),
        "train_client": client[order].numpy(),
        "train_forget": train([torch.full((len(parts[part]),), part == "forget") for part in parts]),
        "holdout_inputs": normalised(sets.holdout.inputs).numpy(),
        "holdout_labels": sets.holdout.labels.numpy(),
        "test_inputs": normalised(sets.test.inputs).numpy(),
        "test_labels": sets.test.labels.numpy(),
    }

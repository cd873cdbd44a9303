"""Run the published federation of FedQUIT (github alessiomora/FedQUIT, TensorFlow 2.15) on an exported run of a cnn.

Theirs: everything that trains. Their scripts `main_fedquit.py` and `unlearning_routine.py` train the original and the
retrained model from their own initial weights, unlearn, and recover until the retrained model's test accuracy is
reached; their data set `mnist` stands for ours, as it is the one with their cnn. Ours: the samples, in the folders that
they read. What had to be done so that it runs: stand-ins for what this use does not call (keras_cv, the transformer),
for `tensorflow_datasets`, which gives the test samples, and for the retrained models of the other nine clients, which
their loop over all clients wants next (it is ended there); the loss is named `kl`, as `kd`, the name in their
configuration, is none that they know; and the folder with the unlearned model gets the name that recovery looks for.
Writes original.npz, retrained.npz, unlearned.npz, recovered.npz and rounds.json into the folder --out.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf
from exported_run import Array, ExportedRun, arguments, as_torch, read_run, work_in_scratch_folder, write_weights
from omegaconf import OmegaConf

VALUES: dict[str, Any] = {"lr": 0.01, "unlearning_lr": 1e-4, "unlearning_epochs": 1, "seed": 2}
ALPHA = 0.3
MODEL, CLIENT, UNLEARNED = Path(f"mnist_{ALPHA}/ResNet18_K10_C1.0_epochs1_seed2"), "client0", "logit_min"
FLATTENED = (7, 7, 64)
"""Height, width and channels before the first linear layer."""
MOST = 30
"""Rounds of recovery at most."""


class Ended(Exception):  # noqa: N818
    """Their loop over all clients has done the one that is asked for."""


def main() -> None:
    """Train, retrain, unlearn, recover, and write the weights of each model."""
    given = arguments(str(__doc__))
    run, values = read_run(given.run, model="cnn"), {**VALUES, **json.loads(given.values)}
    if run.clients != list(range(10)) or run.forgotten != [0]:
        raise SystemExit("their scripts have ten clients, and this program forgets client 0")
    out, code = given.out, given.code / "federated_fedquit"
    out.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(code))
    stand_ins(run)
    work_in_scratch_folder()  # their code reads and writes beside itself
    write_clients(run)
    tf.keras.utils.set_random_seed(values["seed"])
    rounds = carry_out(code / "federated_fedquit" / "conf", run, values)
    for name, folder in {**folders(run), "recovered": recovered(run)}.items():
        weights = tf.keras.models.load_model(folder, compile=False).get_weights()
        write_weights(out / f"{name}.npz", run, [as_torch(array, FLATTENED) for array in weights])
    (out / "rounds.json").write_text(json.dumps({"recovery": rounds, "values": values}) + "\n", encoding="utf-8")


def stand_ins(run: ExportedRun) -> None:
    """Give their imports what they find in place of packages that this use does not need."""
    names = ("keras_cv", "keras_cv.layers", "tensorflow_datasets", "federated_fedquit.transformer_utility")
    for name in names:
        sys.modules[name] = ModuleType(name)
    keras_cv: Any = sys.modules["keras_cv"]
    keras_cv.layers = sys.modules["keras_cv.layers"]
    keras_cv.layers.BaseImageAugmentationLayer = tf.keras.layers.Layer
    transformer: Any = sys.modules["federated_fedquit.transformer_utility"]
    transformer.get_transformer_model = None
    test = tf.data.Dataset.from_tensor_slices((pixels(run.arrays["test_inputs"])[..., None], run.arrays["test_labels"]))
    datasets: Any = sys.modules["tensorflow_datasets"]
    datasets.load = lambda *_args, **_kwargs: test


def pixels(inputs: Array) -> Array:
    """Return images [n, 28, 28] of bytes for inputs [n, 1, 28, 28] from 0 to 1."""
    if inputs.min() < 0 or inputs.max() > 1:
        raise SystemExit("their code divides bytes by 255: export a run whose pixels are from 0 to 1")
    return np.rint(inputs[:, 0] * 255).astype(np.uint8)


def write_clients(run: ExportedRun) -> None:
    """Write each client's samples, and how many of each class it has, where their loader looks for them."""
    folder, counts = Path(f"federated_datasets/mnist/10/{ALPHA}"), []
    for client in run.clients:
        own = run.arrays["train_client"] == client
        labels = run.arrays["train_labels"][own]
        data = tf.data.Dataset.from_tensor_slices((pixels(run.arrays["train_inputs"][own]), labels))
        data.save(str(folder / "train" / str(client)))
        counts.append(np.bincount(labels, minlength=10))
    np.save(folder / "distribution_train.npy", np.stack(counts))


def folders(run: ExportedRun) -> dict[str, Path]:
    """Return where their code keeps the model of each stage before recovery."""
    rounds = int(run.arrays["training_rounds"])
    return {
        "original": "model_checkpoints" / MODEL / "checkpoints" / f"R_{rounds}",
        "retrained": "model_checkpoints_retrained" / MODEL / CLIENT / "checkpoints" / f"R_{rounds}",
        "unlearned": looked_for() / f"R_{rounds}_unlearned_client_0",
    }


def looked_for() -> Path:
    """Return where their recovery looks for the unlearned model."""
    return "model_checkpoints" / MODEL / UNLEARNED / "unlearned"


def recovered(run: ExportedRun) -> Path:
    """Return the folder of the last model of recovery; if no round was needed, of the unlearned one."""
    found = list(("model_checkpoints_resumed" / MODEL).glob(f"{UNLEARNED}/*/{CLIENT}/checkpoints/R_*"))
    return max(found, key=lambda path: int(path.name[2:])) if found else folders(run)["unlearned"]


def carry_out(conf: Path, run: ExportedRun, values: dict[str, Any]) -> int:
    """Run their scripts one after the other; return how many rounds recovery took."""
    from federated_fedquit import main_fedquit, unlearning_routine

    rounds = int(run.arrays["training_rounds"])
    common = {"dataset": "mnist", "alpha": ALPHA, "model": "ResNet18", "seed": 2, "total_clients": 10}
    federation = OmegaConf.merge(
        OmegaConf.load(conf / "base.yaml"),
        {**common, "total_rounds": rounds, "learning_rate": values["lr"], "unlearned_cid": [0]},
    )
    main_fedquit.main(federation)
    main_fedquit.main(OmegaConf.merge(federation, {"retraining": True}))
    unlearn(unlearning_routine, conf, {**common, "total_rounds": rounds}, values)
    pass_values = {"algorithm": UNLEARNED, "unlearning_lr": values["unlearning_lr"], "frozen_layers": 0}
    pass_values["unlearning_epochs"] = values["unlearning_epochs"]
    name = f"fl_0_lr{values['unlearning_lr']}_e_{values['unlearning_epochs']}"
    made = next(("model_checkpoints" / MODEL / UNLEARNED).iterdir())
    made.rename(made.with_name(name))
    looked_for().symlink_to(name)
    again = {"resume_training": True, "total_rounds": MOST, "resuming_after_unlearning": pass_values}
    main_fedquit.main(OmegaConf.merge(federation, again))
    last = recovered(run).name
    return int(last[2:]) - rounds if last[2:].isdecimal() else 0


def unlearn(theirs: Any, conf: Path, common: dict[str, Any], values: dict[str, Any]) -> None:
    """Run their unlearning up to the client after the one to forget."""
    statistics = theirs.load_label_distribution_selected_client

    def first_only(selected_client: int, **said: Any) -> Any:
        if selected_client > 0:
            raise Ended
        return statistics(selected_client=selected_client, **said)

    theirs.load_label_distribution_selected_client = first_only
    # the model of the next client is loaded before: let it find the one that there is
    retrained = "model_checkpoints_retrained" / MODEL
    (retrained / "client1").symlink_to(CLIENT)
    said = {
        "algorithm": UNLEARNED, "unlearning_epochs": values["unlearning_epochs"], "fedquit": {"v": 0.0, "loss": "kl"},
        "learning_rate_unlearning": values["unlearning_lr"],
    }  # fmt: skip
    try:
        theirs.main(OmegaConf.merge(OmegaConf.load(conf / "unlearning.yaml"), {**common, **said}))
    except Ended:
        (retrained / "client1").unlink()
    else:
        raise SystemExit("their loop over all clients ended early")


if __name__ == "__main__":
    main()

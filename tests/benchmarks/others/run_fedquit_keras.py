"""Run the published code of FedQUIT (github alessiomora/FedQUIT, TensorFlow 2.15) on an exported run.

Theirs: the virtual teacher, the loss and Adam of Keras, one pass over the samples. Ours: the model (the mlp of the run
in Keras in place of ResNet-18), and recovery: federated averaging in Keras with the settings and rounds of the run, as
their rounds are tied to their data loaders and checkpoints. Defaults: their script for clients that are not alike.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from exported_run import Array, ExportedRun, arguments, read_run, write_weights

VALUES: dict[str, Any] = {"lr": 1e-4, "epochs": 1, "batch": 32}


def main() -> None:
    """Unlearn as their code does, recover, and write the weights."""
    given = arguments(str(__doc__))
    run, values = read_run(given.run), {**VALUES, **json.loads(given.values)}
    tf.keras.utils.set_random_seed(0)
    theirs = their_module(given.code / "federated_fedquit" / "federated_fedquit" / "fedquit_training.py")
    passes = [unlearned(theirs, run, each, values) for each in run.forgotten]
    weights = [np.mean(arrays, axis=0) for arrays in zip(*passes, strict=True)]
    run.sent += 2 * run.size * len(run.forgotten)
    for _ in range(int(run.arrays["recovery_rounds"])):
        weights = averaged_round(run, weights)
    write_weights(given.out, run, [array.T if array.ndim == 2 else array for array in weights])


def their_module(path: Path) -> Any:
    """Import one file of theirs, which needs TensorFlow and nothing else of theirs."""
    spec = importlib.util.spec_from_file_location("fedquit_training", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_model(run: ExportedRun, weights: list[Array]) -> Any:
    """Return the run's mlp in Keras; `weights` in Keras's order, matrices [inputs, outputs]."""
    sizes = [array.shape[-1] for array in weights[1::2]]
    layers = [tf.keras.layers.Dense(size, activation="relu") for size in sizes[:-1]]
    model = tf.keras.Sequential([*layers, tf.keras.layers.Dense(sizes[-1])])
    model.build((None, weights[0].shape[0]))
    model.set_weights(weights)
    return model


def unlearned(theirs: Any, run: ExportedRun, client: int, values: dict[str, Any]) -> list[Array]:
    """Return a client's weights after its pass."""
    weights = [array.T if array.ndim == 2 else array for array in run.original]
    student, teacher = make_model(run, weights), make_model(run, weights)
    model = theirs.ModelFedQuitLogitDynamic(student, teacher, model_type="ResNet18", dynamic_v=True, dynamic_type="min")
    model.compile(
        optimizer=tf.keras.optimizers.Adam(learning_rate=values["lr"]), loss=tf.keras.losses.KLDivergence(),
        metrics=["accuracy"],
    )  # fmt: skip
    data = tf.data.Dataset.from_tensor_slices(run.samples(client)).batch(values["batch"])
    model.fit(data, epochs=values["epochs"], verbose=0)
    found: list[Array] = student.get_weights()
    return found


def averaged_round(run: ExportedRun, weights: list[Array]) -> list[Array]:
    """Return the mean, by samples, of the remaining clients' models after their local epochs of SGD."""
    settings, models, sizes = run.settings, [], []
    for client in (client for client in run.clients if client not in run.forgotten):
        inputs, labels = run.samples(client)
        model = make_model(run, weights)
        model.compile(
            optimizer=tf.keras.optimizers.SGD(learning_rate=settings["lr"], momentum=settings["momentum"]),
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(inputs, labels, batch_size=settings["batch-size"], epochs=settings["local-epochs"], verbose=0)
        models.append(model.get_weights())
        sizes.append(len(labels))
    run.sent += 2 * run.size * len(models)
    return [np.average(arrays, axis=0, weights=sizes) for arrays in zip(*models, strict=True)]


if __name__ == "__main__":
    main()

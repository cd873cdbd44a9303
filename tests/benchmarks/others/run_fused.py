"""Run the published code of FUSED (CVPR 2025, github Zhong-Zhengyi/FUSED-Code) on an exported run.

Theirs: the adapters, which layers get them (the first and the last), local training, averaging, every round. Ours:
the model (the run's mlp in place of LeNet, its layers named as theirs), the samples, and evaluation of one sample
of each client, which decides nothing. Stand-ins for what their code imports and the repository lacks, none of which
this use calls: `alg_utils.ada_hessain` (the file is called `ada_hessian`), `models.Model_adults`,
`models.Model_purchase`. Defaults: the command of their README.
"""

import json
import random
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from exported_run import arguments, read_run, work_in_scratch_folder, write_weights
from torch.utils.data import DataLoader, TensorDataset

VALUES: dict[str, Any] = {"global_epoch": 100, "local_epoch": 5, "lr": 0.005, "batch": 64}
LAYERS = ("conv1", "fc2", "fc3")
MISSING = ("alg_utils.ada_hessain", "models.Model_adults", "models.Model_purchase")


class Mlp(torch.nn.Module):
    """The run's mlp, its first and last layer named as the layers that their code gives adapters."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        for name, (outputs, inputs) in zip(LAYERS, sizes, strict=True):
            setattr(self, name, torch.nn.Linear(inputs, outputs))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        for name in LAYERS[:-1]:
            rows = torch.relu(getattr(self, name)(rows))
        logits: torch.Tensor = getattr(self, LAYERS[-1])(rows)
        return logits


def main() -> None:
    """Unlearn as their code does, merge the adapters into the weights, and write those."""
    given = arguments(str(__doc__))
    run, values = read_run(given.run), {**VALUES, **json.loads(given.values)}
    sys.path.insert(0, str(given.code))
    for name in MISSING:
        sys.modules[name] = ModuleType(name)
    sys.modules[MISSING[0]].AdaHessian = None  # type: ignore[attr-defined]
    work_in_scratch_folder()  # their code writes beside itself
    Path("save_model").mkdir()
    from algs.fused_unlearning import FUSED

    random.seed(0)
    torch.manual_seed(0)
    args = Namespace(
        data_name="fashionmnist", alpha=1.0, forget_paradigm="client", paradigm="fused", num_user=len(run.clients),
        forget_client_idx=run.forgotten, forget_class_idx=[], cut_sample=1.0, save_normal_result=False,
        if_unlearning=True, device=torch.device("cpu"), test_batch_size=values["batch"],
        global_epoch=values["global_epoch"], local_epoch=values["local_epoch"], lr=values["lr"],
    )  # fmt: skip
    model = Mlp([weight.shape for weight in run.original[::2]])
    names = list(model.state_dict())
    model.load_state_dict({name: torch.tensor(array) for name, array in zip(names, run.original, strict=True)})
    torch.save(model.state_dict(), "save_model/global_model_fashionmnist.pth")
    sets = [TensorDataset(*map(torch.tensor, run.samples(client))) for client in run.clients]
    train = [DataLoader(one, batch_size=values["batch"], shuffle=True) for one in sets]
    tests = [DataLoader(TensorDataset(*(tensor[:1] for tensor in one.tensors)), batch_size=1) for one in sets]
    found = FUSED(args).forget_client_train(model, train, tests)
    trained = sum(value.numel() for value in found.parameters() if value.requires_grad)
    run.sent = 2 * trained * values["global_epoch"] * (len(run.clients) - len(run.forgotten))
    merged = found.lora_model.merge_and_unload().state_dict()
    write_weights(given.out, run, [merged[name].detach().numpy() for name in names])


if __name__ == "__main__":
    main()

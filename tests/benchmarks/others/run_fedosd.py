"""Run the published code of FedOSD (AAAI 2025, github zibinpan/FedOSD) on an exported run.

Theirs: the unlearning loss, the orthogonal direction, the projection in recovery, local training, every round. Ours:
the model (the run's mlp in place of their CNN), the clients' samples in place of their data loader, and no backdoor, by
whose accuracy their code reports but does not decide anything. Defaults: the command of their README.
"""

import json
import sys
from typing import Any

import torch
from exported_run import ExportedRun, arguments, read_run, work_in_scratch_folder, write_weights

VALUES: dict[str, Any] = {"UR": 100, "R": 200, "lr": 4e-4, "r_lr": 1e-6, "decay": 0.999, "B": 200, "E": 1}


class NoTest:
    """Stands for their evaluation of a client, which decides nothing."""

    def __init__(self) -> None:
        zero = [0.0]
        self.metric_history = {"training_loss": zero, "test_accuracy": zero, "backdoor_test_accuracy": zero}

    def run(self, client: Any) -> None:
        """Measure nothing."""


def main() -> None:
    """Unlearn and recover as their code does, and write the weights."""
    given = arguments(str(__doc__))
    run, values = read_run(given.run), {**VALUES, **json.loads(given.values)}
    sys.path.insert(0, str(given.code))
    work_in_scratch_folder()  # their code writes beside itself
    import tfedplat as fp

    fp.setup_seed(seed=1)
    module = make_module(fp, run)
    optimizer = torch.optim.SGD(module.model.parameters(), lr=values["lr"])
    setting = {
        "criterion": torch.nn.CrossEntropyLoss(), "optimizer": optimizer, "lr_decay": values["decay"],
        "step_type": "bgd", "g_clip": -1.0,
    }  # fmt: skip
    clients = [make_client(fp, run, number, module, setting, values["B"]) for number in run.clients]
    algorithm = fp.FedOSD(
        data_loader=None, module=module, device=torch.device("cpu"), train_setting=setting, client_list=clients,
        max_comm_round=values["R"], max_training_num=None, epochs=values["E"], save_name="run", write_log=False,
        params={"UR": values["UR"], "r_lr": values["r_lr"], "test_module": "module"},
    )  # fmt: skip
    algorithm.client_num = algorithm.online_client_num = len(clients)
    algorithm.online_client_list = list(clients)
    algorithm.init_model_params = algorithm.model_params = module.span_model_params_to_vec()
    algorithm.run()
    if algorithm.current_comm_round != values["R"]:
        raise SystemExit(f"their code stopped after {algorithm.current_comm_round} rounds")
    remaining = len(run.clients) - len(run.forgotten)
    unlearning = min(values["UR"], values["R"])
    run.sent = 2 * run.size * (unlearning * len(run.clients) + (values["R"] - unlearning) * remaining)
    write_weights(given.out, run, [value.detach().numpy() for value in module.model.state_dict().values()])


def make_module(fp: Any, run: ExportedRun) -> Any:
    """Return the run's mlp with its trained weights as a module of theirs."""
    module, layers = fp.Module(torch.device("cpu")), list[torch.nn.Module]()
    for weight, bias in zip(run.original[::2], run.original[1::2], strict=True):
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
        layers += [layer, torch.nn.ReLU()]
    module.model = torch.nn.Sequential(*layers[:-1])
    module.create_Loc_reshape_list()
    return module


def make_client(fp: Any, run: ExportedRun, number: int, module: Any, setting: dict[str, Any], batch: int) -> Any:
    """Return a client of theirs with its samples in batches."""
    client = fp.Client(number, module, torch.device("cpu"), setting)
    inputs, labels = (torch.tensor(values) for values in run.samples(number))
    batches = list(zip(inputs.split(batch), labels.split(batch), strict=True))
    client.update_data(batches, len(labels), batches, len(labels))
    client.unlearn_flag, client.test = number in run.forgotten, NoTest()
    return client


if __name__ == "__main__":
    main()

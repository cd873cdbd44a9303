"""A Flower app of one's own, and forgetting in it: the lines that end in "# forgetting" are all that it takes.

    python docs/examples/flower_app.py

Four clients share handwritten digits. In round 6 client 2 is forgotten, and rounds 7 and 8 recover the model.
Needs Flower's simulation engine: pip install 'fedquit[ray]'.
"""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from fedquit.client.forgetting_mod import forgetting_mod  # forgetting
from fedquit.strategies.forgetting import Forgetting  # forgetting

CLIENTS, ROUNDS = 4, 8
FORGET = {6: 2}  # in round 6, the client of partition 2  # forgetting


def make_model() -> nn.Module:
    """Return the untrained model."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def load_samples(context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    """Return this client's share of the digits; client 2 alone has all the sevens."""
    return share(int(context.node_config["partition-id"]))


def share(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the share of a client."""
    digits = load_digits()
    inputs, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    owner = torch.where(labels == 7, 2, torch.arange(len(labels)) % CLIENTS)
    return inputs[owner == client], labels[owner == client]


client_app = ClientApp(mods=[forgetting_mod(make_model, load_samples)])  # forgetting


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model that came for two epochs."""
    model, (inputs, labels) = make_model(), load_samples(context)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(2):
        for batch in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs[batch]), labels[batch])
            loss.backward()
            optimizer.step()
    metrics = MetricRecord({"num-examples": len(labels), "loss": loss.item()})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, forget on the way, and show what the model is right about."""
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy = Forgetting(strategy, FORGET, lr=1e-3)  # forgetting
    arrays = ArrayRecord(make_model().state_dict())
    strategy.start(grid, arrays, num_rounds=ROUNDS, evaluate_fn=evaluate)
    print("outcomes:", strategy.outcomes)  # forgetting


def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
    """Return the accuracy on each client's share."""
    model = make_model()
    model.load_state_dict(arrays.to_torch_state_dict())
    found = {}
    for client in range(CLIENTS):
        inputs, labels = share(client)
        found[f"client-{client}"] = float((model(inputs).argmax(dim=1) == labels).float().mean())
    print(f"after round {number}:", "  ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return MetricRecord(found)


if __name__ == "__main__":
    run_simulation(server_app, client_app, num_supernodes=CLIENTS)

"""Messages to a deployed device, and what its kit, its record and its replies hold afterwards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedquit.client.app import app
from fedquit.client.data.build_data_and_model import initial_model
from fedquit.client.device.local_data.gather import find
from fedquit.client.device.local_data.samples_commitment import commitment, set_digest
from fedquit.client.device.record import Mark, opened
from fedquit.client.kit import Kit
from fedquit.client.models.model_file import model_hash
from fedquit.client.requests.keys import new_key
from fedquit.client.requests.signed_request import Signed
from fedquit.server.provision.certificates import node_key_files
from fedquit.settings import Settings
from fedquit.strategies.flower_internals import become_server_task
from fedquit.strategies.grid.array_record import arrays_of_record

SETTINGS = Settings(model="mlp", classes="3", input_shape="1x4x4", batch_size=4)


START = initial_model(SETTINGS, 0).state_dict()


REQUEST, OTHER = "5e" * 32, "07" * 32


def make_kit(folder: Path, count: int = 12, **more: str) -> Kit:
    folder.mkdir()
    draw = np.random.default_rng(3)
    np.savez(folder / "own.npz", x=draw.integers(0, 256, (count, 4, 4), dtype=np.uint8), y=[0, 1, 2] * (count // 3))
    told = {"federation": "clinics", "superlink": "h:1", "forget": "h:2", "name": "north", "data": "own.npz", **more}
    lines = [f'{key} = "{value}"' for key, value in told.items()]
    (folder / "device.toml").write_text("\n".join([*lines, "number = 4"]))
    (folder / "node.key").write_bytes(node_key_files(new_key())[0])
    (folder / "node.key").chmod(0o600)
    return Kit.read(folder)


def rows(kit: Kit, *numbers: int) -> tuple[bytes, ...]:
    return tuple(find(kit.path(kit.data), [str(number) for number in numbers]).values())


def change(kit: Kit, change: Callable[[Any, Any], tuple[Any, Any]]) -> None:
    with np.load(kit.path(kit.data)) as held:
        x, y = change(held["x"], held["y"])
    np.savez(kit.path(kit.data), x=x, y=y)


def send(kit: Kit, kind: str, state: Any = None, settings: Settings = SETTINGS, **config: Any) -> RecordDict:
    become_server_task(1)
    told = ConfigRecord({"seed": 5, "lr": 0.1, "server-round": 1, "phase": "train", **config})
    content = RecordDict({"arrays": ArrayRecord(dict(state or START)), "config": told})
    node: Any = {"kit": str(kit.folder)}
    context = Context(run_id=9, node_id=7, node_config=node, state=RecordDict(), run_config=settings.run_config())
    return app(Message(content, 7, kind), context).content


def forget(kit: Kit, request: str = REQUEST, **config: Any) -> RecordDict:
    return send(kit, "train.forget", **{"phase": "forget", "samples": "forget", "request": request, **config})


def said(content: RecordDict) -> dict[str, Any]:
    return dict(content.metric_records["metrics"])


def model_of(content: RecordDict) -> str:
    return model_hash(arrays_of_record(content.array_records["arrays"]))


def mark(kit: Kit, *numbers: int, request: str = REQUEST) -> None:
    with opened(kit.path(kit.record)) as record:
        record.mark(Mark(request, "sample", digests=rows(kit, *numbers)))


def trained_on(kit: Kit) -> set[bytes]:
    """Train a round and return the digests of what it trained on, as the record has them."""
    sent = send(kit, "train").config_records["config"]["samples-digest"]
    with opened(kit.path(kit.record)) as record:
        every = {each for row in record.database.read("SELECT digests FROM sample_sets") for each in parts(row[0])}
        found = {each for each in every if record.rounds()[-1] in record.rounds(each)}
    assert sent == committed(kit, *found)
    return found


def committed(kit: Kit, *digests: bytes) -> str:
    """Return the commitment to some samples that only the device's record can open."""
    with opened(kit.path(kit.record)) as record:
        return commitment(digests, record.salts()[set_digest(digests)])


def parts(value: bytes) -> list[bytes]:
    return [value[start : start + 32] for start in range(0, len(value), 32)]


def ridden(content: RecordDict) -> Signed:
    told = content.config_records["ask"]
    ask, signature = told["ask"], told["signature"]
    assert isinstance(ask, bytes)
    assert isinstance(signature, bytes)
    return Signed(ask, signature)

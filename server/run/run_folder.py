"""The folder of a run: everything that a killed run needs to resume, and that a report is made from.

settings.json     the settings of the run
partition.json    client -> indices into the training set
state.json        how far it is; replaced whole after every round
events.jsonl      what happened, a line each
costs.csv         what each message cost, a line each
checkpoints/      models, each named by the SHA-256 of its file
computed.json     on which device, in which precision, and how many clients at once, or why one by one
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock

from fedquit.errors import FedquitError, InputError
from fedquit.files import explained, write_json
from fedquit.server.lifecycle.model_store import Models
from fedquit.server.run.run_state import State
from fedquit.settings import UNSAID, Settings
from fedquit.unlearning.tensors.convert import Arrays

COMPUTED, AT_ONCE, ONE_BY_ONE = "computed.json", "clients_at_once", "one_by_one"
PLAINLY = {"device": "cpu", "precision": "fp32", "stack": "off"}
"""How runs were computed before they said so, and those of `flwr run`."""


class RunFolder:
    """A run's folder, locked for as long as this object holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.models = Models(path / "checkpoints")
        self._lock = filelock.FileLock(str(path / ".lock"), timeout=0)

    @classmethod
    def create(cls, path: Path, settings: Settings, *, overwrite: bool = False) -> "RunFolder":
        """Make a new folder at `path` and write the settings into it.

        Raises:
            InputError: there is something at `path`, and it may not be overwritten.
            FedquitError: the folder cannot be written.
        """
        if path.exists() and (not path.is_dir() or not all(_unbegun(left) for left in path.iterdir())):
            if not overwrite:
                raise InputError(
                    f"{path} exists; continue it with --resume, replace it with --overwrite, or give another --out"
                )
            if not (path / "settings.json").is_file():
                raise InputError(f"{path} is not the folder of a run: it will not be overwritten; give another --out")
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        folder.lock()
        try:
            with explained(path):
                for old in path.iterdir():
                    if old.name != ".lock":
                        shutil.rmtree(old) if old.is_dir() else old.unlink()
                (path / "checkpoints").mkdir()
            write_json(path / "settings.json", settings.run_config())
        except BaseException:
            shutil.rmtree(path / "checkpoints", ignore_errors=True)
            folder.release()
            (path / ".lock").unlink(missing_ok=True)
            raise
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the folder of an earlier run to resume it.

        Raises:
            InputError: it is not the folder of a run.
            FedquitError: another process is at work in it.
        """
        read_settings(path)
        folder = cls(path)
        folder.lock()
        for left in path.glob(".*.partial"):
            left.unlink()
        return folder

    def lock(self) -> None:
        """Keep other processes out; the lock ends with this process, however it ends."""
        with explained(self.path):
            try:
                self._lock.acquire()
            except filelock.Timeout:
                raise FedquitError(f"another process is at work in {self.path}") from None

    def release(self) -> None:
        """Let other processes in."""
        self._lock.release()

    @property
    def partition_file(self) -> Path:
        """The split of the data, if it was saved."""
        return self.path / "partition.json"

    @property
    def costs_file(self) -> Path:
        """The cost log."""
        return costs_file(self.path)

    def settings(self) -> Settings:
        """Return the settings of the run, with the saved split of the data."""
        settings = read_settings(self.path)
        if self.partition_file.exists():
            settings = settings.model_copy(update={"partition": str(self.partition_file.resolve())})
        return settings

    def compute_with(self, how: Mapping[str, str], found: Mapping[str, str]) -> None:
        """Note how the run is computed; a run that has begun goes on as it began.

        Args:
            how: what its user chose: device, precision, stack.
            found: what `stack` came to: `AT_ONCE` and `ONE_BY_ONE`. A run that began before these were noted gets none:
                nobody knows how its first rounds were computed.

        Raises:
            InputError: it began otherwise.
        """
        began = self.computed_with() if (self.path / COMPUTED).exists() else {**how, **found}
        for name, value in how.items():
            if value != began[name]:
                raise InputError(
                    f"the run in {self.path} began with --{name} {began[name]}, not {value}: its models would be those "
                    f"of neither; resume it with --{name} {began[name]}"
                )
        write_json(self.path / COMPUTED, began)

    def computed_with(self) -> dict[str, str]:
        """Return how the run is computed; as runs were before they noted it, if it does not say."""
        return read_computed(self.path)

    def load_state(self) -> State:
        """Return how far the run is; cut events and costs off that came after it, and put back rows that were lost."""
        state = read_state(self.path)
        for file, size in ((self.path / "events.jsonl", state.events_size), (self.costs_file, state.costs_size)):
            if file.exists() and file.stat().st_size > size:
                with explained(file), file.open("r+b") as opened:
                    opened.truncate(size)
        self._put_back(state.costs_tail.encode(), state.costs_size)
        return state

    def _put_back(self, tail: bytes, size: int) -> None:
        """Make `tail` the end of the cost log, of `size` bytes, if a power failure took it."""
        file, start = self.costs_file, size - len(tail)
        if tail and file.exists() and file.stat().st_size >= start:
            with explained(file), file.open("rb") as opened:
                opened.seek(start)
                if opened.read() == tail:
                    return
            with explained(file), file.open("r+b") as opened:
                opened.seek(start)
                opened.write(tail)

    def save_state(self, state: State) -> None:
        """Make `state` the one from which a killed run resumes, and drop models that nothing names any more."""
        write_json(self.path / "state.json", state.to_json())
        for path in (self.path / "checkpoints").iterdir():
            if path.stem not in state.named_models():
                path.unlink()

    def append_event(self, event: Mapping[str, Any]) -> int:
        """Add a line to events.jsonl and return the file's size."""
        path = self.path / "events.jsonl"
        with explained(path), path.open("ab") as file:
            file.write((json.dumps(event, allow_nan=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def save_model(self, arrays: Arrays) -> str:
        """Write a model named by the SHA-256 of its file, and return that."""
        return self.models.save(arrays)

    def load_model(self, name: str) -> Arrays:
        """Return the model of that name.

        Raises:
            FedquitError: the file is missing or was altered.
        """
        return self.models.load(name)

    def checkpoint(self, name: str) -> Path:
        """Return the file of the model of that name."""
        return self.models.path(name)


def _unbegun(path: Path) -> bool:
    """Say whether a file is all that a run killed before its settings were written can have left."""
    empty = path.name == "checkpoints" and path.is_dir() and not any(path.iterdir())
    return empty or path.name == ".lock" or path.name.endswith(".partial")


def read_settings(path: Path) -> Settings:
    """Return the settings of the run in the folder `path`.

    Raises:
        InputError: it is not the folder of a run.
    """
    file = path / "settings.json"
    if not file.is_file():
        raise InputError(f"{path} is not the folder of a run (it has no settings.json)")
    document = _read_json(file)
    if not isinstance(document, dict):
        raise InputError(f"{file} is not the settings of a run")
    return Settings.read({**UNSAID, **document}, str(file))


def read_state(path: Path) -> State:
    """Return how far the run in the folder `path` is.

    Raises:
        InputError: its state.json cannot be read.
    """
    file = path / "state.json"
    return State.from_json(_read_json(file), str(file)) if file.exists() else State()


def costs_file(path: Path) -> Path:
    """Return the cost log of the run in the folder `path`."""
    return path / "costs.csv"


def read_computed(path: Path) -> dict[str, str]:
    """Return how the run in a folder is computed: see `RunFolder.computed_with`.

    Raises:
        InputError: what it notes cannot be read.
    """
    file = path / COMPUTED
    noted = _read_json(file) if file.exists() else {}
    if not isinstance(noted, dict) or not all(isinstance(value, str) for value in noted.values()):
        raise InputError(f"{file} does not say how the run is computed: it must be a JSON object of strings")
    at_once = noted.get(AT_ONCE, "1")
    if not at_once.isdecimal() or int(at_once) < 1:
        raise InputError(f"{file}: {AT_ONCE} is {at_once!r}; it must be a number from 1")
    return {**PLAINLY, **noted}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None

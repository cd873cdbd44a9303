"""The folder of a run's shadow models: created for one run and one kind, and resumed only as that.

shadows.json             which models are there and how they were made, rewritten after each; the audit reads it
shadow-3.safetensors     a model
shadow-3/                its run: settings, split, events and measures; its checkpoints go once it is done
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedquit.client.data.partition_file import save_partition
from fedquit.documents import Document
from fedquit.errors import FedquitError, InputError
from fedquit.files import explained, write_json, write_whole
from fedquit.server.run.phases import phases
from fedquit.server.run.run_folder import RunFolder, read_settings
from fedquit.settings import Settings
from fedquit.simulations.audit.shadow_design import ShadowRun, shadow_run, shared
from fedquit.simulations.compare.cells.cell import is_done, result
from fedquit.simulations.compare.cells.comparison_folder import first_difference
from fedquit.simulations.compare.cells.plan_cells import Cell

SCHEMA_VERSION = 1
LIST = "shadows.json"
WAY_OUT = "give another --out, or replace them with --overwrite"


class ShadowFolder:
    """Shadow models of a run; `document` lists those that are there.

    Args:
        path: the folder.
        settings: of the run.
        plain: they were not made to forget.
    """

    def __init__(self, path: Path, settings: Settings, *, plain: bool) -> None:
        self.path, self._settings, self._plain = path, settings, plain
        self.document: Document = {
            "schema_version": SCHEMA_VERSION,
            "kind": "plain" if plain else "u-lira",
            "stage": "original" if plain else "recovered",
            "settings": {**shared(settings, plain=plain), "partition": Path(settings.partition).name},
            "models": [],
        }

    @contextmanager
    def held(self, *, overwrite: bool) -> Iterator[None]:
        """Hold the folder, made, emptied or taken up again, so that no other process is at work in it.

        Raises:
            InputError: it is something else's, or holds other shadow models; nothing was written.
            FedquitError: it cannot be written, or another process is at work in it.
        """
        self._check(overwrite=overwrite)
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        folder = RunFolder(self.path)
        folder.lock()
        try:
            if overwrite:
                self._empty()
            if (self.path / LIST).is_file():
                self.document["models"] = [entry for entry in self._listed() if self._intact(entry)]
            self._write()
            yield
        finally:
            folder.release()

    def _check(self, *, overwrite: bool) -> None:
        if (self.path / LIST).is_file():
            if not overwrite:
                self._listed()
        elif self.path.exists() and (not self.path.is_dir() or not all(map(_left_over, self.path.iterdir()))):
            raise InputError(f"{self.path} exists and holds no shadow models; give another --out")

    def _empty(self) -> None:
        with explained(self.path):
            for old in self.path.iterdir():
                if old.name != ".lock":
                    shutil.rmtree(old) if old.is_dir() else old.unlink()

    def _listed(self) -> list[Document]:
        """Return what the list says, which must be of this run and this kind."""
        file = self.path / LIST
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            models = {entry["number"]: entry for entry in kept["models"]}
            lists = {number: (entry["in"], entry["out"]) for number, entry in models.items()}
            before = {"kind": kept["kind"], **Settings.read(kept["settings"]).run_config()}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file} cannot be resumed ({error!r}); {WAY_OUT}") from None
        difference = first_difference(before, {"kind": self.document["kind"], **self.document["settings"]})
        if difference:
            key, there, here = difference
            raise InputError(f"{key}: the shadow models in {self.path} have {there}, not {here}; {WAY_OUT}")
        for number, (inside, outside) in lists.items():
            run = shadow_run(self._settings, number, plain=self._plain)
            if (inside, outside) != (list(run.inside), list(run.outside)):
                raise InputError(f"the shadow models in {self.path} are for other samples to forget; {WAY_OUT}")
        return list(models.values())

    def _intact(self, entry: Document) -> bool:
        try:
            return bool(hashlib.sha256((self.path / entry["file"]).read_bytes()).hexdigest() == entry["sha256"])
        except OSError:
            return False

    def _write(self) -> None:
        self.document["models"].sort(key=lambda entry: entry["number"])
        write_json(self.path / LIST, self.document)

    def prepare(self, run: ShadowRun) -> Cell | None:
        """Return what is to be carried out for a model, and write what that reads; None if the model is there.

        What a kill interrupted is put in order: a run that is done gives its model, one that cannot be resumed
        begins again.
        """
        cell, folder = self._cell(run), self.path / _name(run)
        done, settings_of_cell = is_done(self.path, cell), Settings.read(cell.settings)
        if any(entry["number"] == run.number for entry in self.document["models"]):
            self._trim(run)
            return None
        if done and (folder / "checkpoints").is_dir():
            self.keep(run)
            return None
        if done or ((folder / "settings.json").is_file() and read_settings(folder) != settings_of_cell):
            with explained(folder):
                shutil.rmtree(folder)
        save_partition(Path(settings_of_cell.partition), run.parts)
        if run.asked:
            write_json(Path(settings_of_cell.forget_samples), run.asked)
        return cell

    def _cell(self, run: ShadowRun) -> Cell:
        files = {"partition": str(self._partition(run))}
        if run.asked:
            files["forget-samples"] = str((self.path / f"{_name(run)}.forget.json").resolve())
        settings = {**run.settings, **files}
        settings_of_cell = Settings.read(settings)
        only = frozenset({"train"} if self._plain else {phase.name for phase in phases(settings_of_cell)})
        recovery = (
            settings_of_cell.recover_rounds if settings_of_cell.recover == "budget" else settings_of_cell.patience
        )
        rounds = settings_of_cell.rounds + (0 if self._plain else settings_of_cell.num_requests * (1 + recovery))
        return Cell("base", settings_of_cell.seed, (), "", _name(run), settings, only, (), rounds)

    def _partition(self, run: ShadowRun) -> Path:
        return (self.path / f"{_name(run)}.partition.json").resolve()

    def keep(self, run: ShadowRun) -> None:
        """Take the model of a run that is done into the list, and remove what has served.

        Raises:
            FedquitError: the model cannot be read or written.
        """
        report = result(self.path, self._cell(run))
        sha256 = report["stages"][self.document["stage"]]["model_sha256"]
        source, target = RunFolder(self.path / _name(run)).checkpoint(sha256), f"{_name(run)}.safetensors"
        content = source.read_bytes() if source.is_file() else b""
        if hashlib.sha256(content).hexdigest() != sha256:
            raise FedquitError(f"{source} is missing or damaged; remove {source.parent.parent} and try again")
        write_whole(self.path / target, content)
        entry = {
            "file": target,
            "number": run.number,
            "seed": run.settings["seed"],
            "model_seed": run.settings["model-seed"],
            "sha256": sha256,
            "fedquit": report["versions"]["fedquit"],
            "in": list(run.inside),
            "out": list(run.outside),
        }
        self.document["models"].append(entry)
        self._write()
        self._trim(run)

    def _trim(self, run: ShadowRun) -> None:
        """Remove what a run that has given its model needs no more; its folder has its split too."""
        for name in ("checkpoints", "history"):
            with explained(self.path / _name(run)):
                if (self.path / _name(run) / name).exists():
                    shutil.rmtree(self.path / _name(run) / name)
        with explained(self._partition(run)):
            self._partition(run).unlink(missing_ok=True)


def _name(run: ShadowRun) -> str:
    return f"shadow-{run.number}"


def _left_over(path: Path) -> bool:
    """Say whether a file is all that a making killed before its list was written can have left."""
    return path.name == ".lock" or path.name.endswith(".partial")

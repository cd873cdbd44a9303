"""The costs of a simulated run, from its folder; the rows count up to its last checkpoint, so it may be at work."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedquit.documents import Document
from fedquit.errors import InputError
from fedquit.server.run.phases import nth
from fedquit.server.run.run_folder import costs_file, read_settings, read_state
from fedquit.simulations.costs.cost_document import SUMS, Clock, beside_retraining
from fedquit.strategies.cost_log.cost_rows import DIRECTIONS, Row, read_rows


def rows_of(path: Path) -> Iterator[Row]:
    """Yield the rows of the simulated run in the folder `path`, up to its last checkpoint.

    Raises:
        InputError: it is no run, or has no cost log.
    """
    read_settings(path)
    size = read_state(path).costs_size
    if not size or not costs_file(path).is_file():
        raise InputError(f"{path} has no cost log: no round is finished, or an older fedquit began the run")
    return read_rows(costs_file(path), size)


class RunCosts:
    """See `CostSource`: the simulated run in a folder.

    Raises:
        InputError: it is no run, or has no cost log.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.resolve().name
        self._settings, self._state = read_settings(path), read_state(path)

    def rows(self) -> Iterator[Row]:
        """See `CostSource`."""
        return rows_of(self.path)

    def clocks(self) -> Mapping[str, Clock]:
        """See `CostSource`."""
        rounds = {name: self._state.of(name) for name in self._phases()}
        return {
            name: Clock(sum(one.exchanges for one in those), sum(one.seconds for one in those))
            for name, those in rounds.items()
        }

    def node_names(self) -> None:
        """See `CostSource`."""

    def requests(self, rounds: Sequence[Document], phases: Mapping[str, Document]) -> list[Document]:
        """See `CostSource`; the run retrained, so that is measured."""
        del rounds
        spent = [
            [phases[name] for name in (nth("forget", i), nth("recover", i)) if name in phases]
            for i in range(self._settings.num_requests)
        ]
        return [beside_retraining(each, phases.get("retrain")) for each in spent]

    def incomplete(self, phases: Mapping[str, Document]) -> list[str]:
        """See `CostSource`."""
        return [name for name in self._phases() if not self._is_whole(name, phases)]

    def _phases(self) -> list[str]:
        return list(dict.fromkeys(finished.phase for finished in self._state.rounds))

    def _is_whole(self, phase: str, phases: Mapping[str, Document]) -> bool:
        found = phases.get(phase, dict.fromkeys(SUMS, 0))
        return all(
            found[f"payload_bytes_{way}"] == sum(getattr(one, f"bytes_{way}") for one in self._state.of(phase))
            for way in DIRECTIONS
        )

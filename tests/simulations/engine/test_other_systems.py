"""Where there is no forkserver, as on Windows and macOS: workers start by `spawn`, behind small pipes."""

import subprocess
import sys
from pathlib import Path

from fedquit.simulations.engine.worker_pool import WINDOWS_WAITS_FOR, most_workers

ROUNDS = """
import hashlib, multiprocessing, sys, types
multiprocessing.get_all_start_methods = lambda: ["spawn"]
for missing in ("fcntl", "multiprocessing.forkserver", "resource"):
    sys.modules[missing] = None  # to import it is an error
from fedquit.client.data.build_data_and_model import initial_model
from fedquit.settings import Settings
from fedquit.simulations.engine import worker_pool
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.rounds.reply import ReplyDetail
from fedquit.strategies.rounds.train import Train
from fedquit.unlearning.tensors.convert import arrays_of


def made(workers, stack, detail):
    settings = Settings(clients=7, samples=160, model="mlp")
    arrays = arrays_of(initial_model(settings, 0).state_dict())
    with InProcessGrid(7, settings.run_config(), workers=workers, stack=stack) as grid:
        strategy = Train(MeteredGrid(grid, patience=600), seed=4, reply_detail=detail)
        for number in (1, 2):
            arrays, _ = strategy.round(number, arrays, {"lr": 0.1})
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays.values())).hexdigest()


if __name__ == "__main__":
    worker_pool.sys = types.SimpleNamespace(platform="darwin", maxsize=sys.maxsize)
    for stack, detail in ((1, ReplyDetail.LENGTHS), (3, ReplyDetail.LENGTHS), (1, ReplyDetail.MODELS)):
        print(made(1, stack, detail) == made(2, stack, detail))
    print("fcntl" in sys.modules and sys.modules["fcntl"] is not None)
"""


def test_spawned_workers_make_the_same_models_with_models_larger_than_a_pipe(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[3])!r})\n{ROUNDS}")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["True", "True", "True", "False"], done.stderr
    assert "Traceback" not in done.stderr


def test_on_windows_no_more_workers_start_than_it_can_wait_for() -> None:
    assert 2 * most_workers("win32") <= WINDOWS_WAITS_FOR < 64
    assert most_workers("linux") == most_workers("darwin") == sys.maxsize

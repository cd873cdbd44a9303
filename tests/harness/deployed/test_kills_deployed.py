"""What kills processes of real deployments says what happened, finds what it started, and leaves nothing."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fedquit.client.kit import Kit
from fedquit.processes.supervisor import listens
from tests.harness.deployed.kills_deployed import TABLES, Outcome
from tests.harness.deployment import MARK, Deployment, made
from tests.harness.waiting import until

SAME = Outcome("done", 1, 1, 1, "a", "b", "c", ((0,), (0, 1, 2)), 0, (), True, seconds=41.0, killed=1)


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (SAME, "same, 41 s"),
        (replace(SAME, killed=0), "was not there"),
        (replace(SAME, before="x"), "sound, 41 s"),
        (replace(SAME, final="x", took_part=((0,), (1, 2))), "other model: 2 devices in recovery, 41 s"),
        (replace(SAME, final="x"), "OTHER MODEL"),
        (replace(SAME, status="failed"), "NOT SOUND"),
        (replace(SAME, requests=2), "NOT SOUND"),
        (replace(SAME, forgets=2), "NOT SOUND"),
        (replace(SAME, ended=2), "NOT SOUND"),
        (replace(SAME, status="unrecovered", code=6), "same, 41 s"),
        (replace(SAME, status="unrecovered"), "NOT SOUND"),
        (replace(SAME, code=6), "NOT SOUND"),
        (replace(SAME, verifies=False), "NOT SOUND"),
        (replace(SAME, wrong=("event 3 was altered",)), "NOT SOUND"),
        (replace(SAME, code=3), "NOT SOUND"),
    ],
)
def test_a_cell_says_same_only_where_all_is_the_same(ended: Outcome, said: str) -> None:
    assert ended.beside(replace(SAME, killed=0)).startswith(said)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return made(tmp_path_factory.mktemp("deployment") / "made", TABLES, samples=60)


def test_a_copy_has_ports_of_its_own_wherever_they_are_named(deployment: Deployment, tmp_path: Path) -> None:
    copy = deployment.copy(tmp_path / "copy")
    ports = copy.federation.server
    assert not {ports.fleet_port, ports.forget_port} & {
        deployment.federation.server.fleet_port,
        deployment.federation.server.forget_port,
    }
    assert ports.fleet_port == ports.superlink_port
    for kit in copy.kits.values():
        assert (kit.superlink, kit.forget) == (f"localhost:{ports.fleet_port}", f"localhost:{ports.forget_port}")
        assert isinstance(kit, Kit)
    assert not listens(ports.fleet_port)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_orphaned_process_is_found_by_its_mark_and_ended(deployment: Deployment) -> None:
    environment = {**os.environ, MARK: str(deployment.folder)}
    orphaning = "import subprocess; subprocess.Popen(['sleep', '600'])"
    subprocess.run([sys.executable, "-c", orphaning], env=environment, check=True)
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        until(lambda: any("sleep" in process.command for process in deployment.processes()), "orphan")
        deployment.stop()
        assert deployment.processes() == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()

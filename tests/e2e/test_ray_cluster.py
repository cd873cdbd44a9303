"""A simulation on a Ray cluster that is there already: the same models, bit for bit, with clients on all its nodes."""

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedquit.client.device.join import free_port
from tests.e2e.test_flower import FLAGS, models, simulate
from tests.harness.waiting import MOST, until

pytestmark = pytest.mark.timeout(MOST)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of Ray with one processor each, and this process connected to them."""
    ray = pytest.importorskip("ray")
    made: Any = importlib.import_module("ray.cluster_utils").Cluster

    with (
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)  # so that no other process on this machine takes it for its cluster
        nodes = made()
        try:
            nodes.add_node(num_cpus=1, include_dashboard=False, gcs_server_port=free_port())
            nodes.add_node(num_cpus=1)
            nodes.wait_for_nodes()
            ray.init(address=nodes.address, log_to_driver=False)
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


def test_a_cluster_of_two_ray_nodes_gives_the_same_models(cluster: Any, tmp_path: Path) -> None:
    state: Any = importlib.import_module("ray._private.state")
    left = state.available_resources_per_node

    expected = models(simulate(tmp_path / "inprocess", "--workers", "1"))
    command = [sys.executable, "-m", "fedquit", "simulate", *FLAGS, "--engine", "flower", "--address", cluster.address]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        until(
            lambda: process.poll() is not None or [node.get("CPU", 0.0) for node in left().values()] == [0.0, 0.0],
            "a client at work on each node",
            every=0.05,
        )
        assert process.poll() is None, process.communicate()
        _, said = process.communicate(timeout=MOST)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    report = subprocess.run(
        [sys.executable, "-m", "fedquit", "report", str(tmp_path / "run"), "--json"], capture_output=True, check=True
    )
    assert models(json.loads(report.stdout)) == expected
    until(lambda: sum(node.get("CPU", 0.0) for node in left().values()) == 2.0, "free nodes")


def test_an_address_without_a_cluster_is_an_error_of_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    address = f"127.0.0.1:{free_port()}"
    flags = ["--engine", "flower", "--address", address, "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "fedquit", "simulate", *FLAGS, *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert f"--address {address}: cannot connect to a Ray cluster" in last
    assert "Traceback" not in done.stderr

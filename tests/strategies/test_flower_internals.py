"""What fedquit uses of Flower beside its public interface is there: where a new Flower took something away, a test
names it, and says what it was for.
"""

import ast
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from fedquit.strategies.flower_internals import MESSAGE_TABLES

ROOT = Path(__file__).resolve().parent.parent.parent
INTERNALS = "strategies/flower_internals.py"
PUBLIC = ("flwr.app.", "flwr.clientapp.", "flwr.serverapp.")
USED = {
    "flwr.clientapp.ClientApp": "the app of a device",
    "flwr.serverapp.ServerApp": "the app of the server",
    "flwr.serverapp.strategy.DifferentialPrivacyClientSideAdaptiveClipping": "privacy, clipped by devices",
    "flwr.serverapp.strategy.DifferentialPrivacyServerSideAdaptiveClipping": "privacy, clipped by the server",
    "flwr.common.constant.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": "estimating the bytes of a message",
    "flwr.common.constant.SUPERLINK_NODE_ID": "messages outside a run of Flower's",
    "flwr.proto.control_pb2.ListNodesRequest": "which devices are registered",
    "flwr.proto.control_pb2.ListRunsRequest": "whether the coordinator's run continues",
    "flwr.proto.control_pb2.RegisterNodeRequest": "letting devices in",
    "flwr.proto.control_pb2.StopRunRequest": "ending the run of an earlier server",
    "flwr.proto.control_pb2.UnregisterNodeRequest": "shutting a revoked device out",
    "flwr.proto.message_pb2.Message": "estimating the bytes of a message",
    "flwr.proto.message_pb2.Metadata": "estimating the bytes of a message",
    "flwr.proto.node_pb2.NodeInfo": "knowing a device by its key",
    "flwr.proto.recorddict_pb2.RecordDict": "estimating the bytes of a message",
    "flwr.supercore.constant.HEAD_BODY_DIVIDER": "estimating the bytes of a message",
    "flwr.supercore.constant.HEAD_VALUE_DIVIDER": "estimating the bytes of a message",
    "flwr.supercore.constant.NOOP_FEDERATION_ID": "Flower's simulation engine",
    "flwr.supercore.control.ControlHttpClient": "letting devices in; the coordinator's run",
    "flwr.supercore.differential_privacy.KEY_NORM_BIT": "privacy, clipped by devices",
    "flwr.supercore.error.ApiErrorCode": "telling a key that is in already from one that is refused",
    "flwr.supercore.error.FlowerError": "saying why the SuperLink refuses",
    "flwr.supercore.interceptors.http.RuntimeVersionHttpInterceptor": "speaking with the SuperLink's control API",
    "flwr.supercore.run.Run": "messages outside a run of Flower's",
    "flwr.supercore.task_identity.TaskIdentity": "messages outside a run of Flower's",
    "flwr.supercore.telemetry.EventType": "Flower's simulation engine",
    "flwr.superlink.grid.http_grid": "waiting no longer for the parts of a reply than for the reply",
    "flwr.simulation.run_simulation._run_simulation": "Flower's simulation engine",
}  # fmt: skip
MEMBERS = {
    "flwr.superlink.grid.http_grid": ("pull_objects",),
    "flwr.supercore.control.ControlHttpClient": (
        "ListNodes", "ListRuns", "RegisterNode", "StopRun", "UnregisterNode", "close",
    ),
    "flwr.supercore.error.ApiErrorCode": ("PUBLIC_KEY_ALREADY_IN_USE",),
    "flwr.supercore.error.FlowerError": ("from_json",),
    "flwr.supercore.run.Run": ("create_empty",),
    "flwr.supercore.task_identity.TaskIdentity": ("task_id", "run_id", "node_id"),
    "flwr.supercore.telemetry.EventType": ("PYTHON_API_RUN_SIMULATION_LEAVE",),
    "flwr.serverapp.strategy.DifferentialPrivacyClientSideAdaptiveClipping": ("aggregate_train", "configure_train"),
}  # fmt: skip
PARAMETERS = {
    "flwr.superlink.grid.http_grid.pull_objects": ("object_ids", "pull_object_fn", "max_time", "backoff_cap"),
    "flwr.supercore.control.ControlHttpClient.from_server_address": (
        "server_address", "insecure", "root_certificates", "interceptors",
    ),
    "flwr.simulation.run_simulation._run_simulation": (
        "num_supernodes", "exit_event", "client_app", "server_app", "backend_config", "app_dir", "is_app", "run",
    ),
}  # fmt: skip
FLAGS = {
    "flower-superlink": (
        "--host", "--port", "--ssl-ca-certfile", "--ssl-certfile", "--ssl-keyfile", "--enable-supernode-auth",
        "--database", "--isolation", "--disable-runtime-dependency-installation",
    ),
    "flower-superexec": ("--runtime-api-address", "--root-certificates", "--insecure"),
    "flower-supernode": (
        "--superlink", "--root-certificates", "--auth-supernode-private-key", "--host", "--port", "--node-config",
        "--isolation",
    ),
}  # fmt: skip
OTHER_BYTES = {
    "automation", "compacted_contexts", "connector", "connector_oauth_session", "fab", "node", "series_context",
    "task_message",
}  # fmt: skip
"""Tables with bytes in them that are none of what our messages carry: the app, keys, and what Flower's agents keep."""


def found(name: str, why: str) -> Any:
    """Return something of Flower's by its full name, or fail with what it was for."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        pytest.fail(f"flwr {version('flwr')}: {name} is gone, used for {why}; mend {INTERNALS}", pytrace=False)


def imports_of(path: Path) -> set[str]:
    """Return the full names of all that a file imports from Flower."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    plain = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names = {f"{node.module}.{alias.name}" for node in froms for alias in node.names} | set(plain)
    return {name for name in names if name.split(".")[0] == "flwr"}


@pytest.mark.parametrize("name", USED)
def test_what_is_used_of_flower_is_there(name: str) -> None:
    thing = found(name, USED[name])
    for member in MEMBERS.get(name, ()):
        there = {*dir(thing), *dir(type(thing))}
        assert member in there, f"flwr {version('flwr')}: {name}.{member} is gone, used for {USED[name]}"


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_is_called_of_flower_takes_what_it_is_given(name: str) -> None:
    owner, _, attribute = name.rpartition(".")
    called = getattr(found(owner, "a call"), attribute) if owner in USED else found(name, USED.get(name, "a call"))
    missing = set(PARAMETERS[name]) - set(inspect.signature(called).parameters)
    assert not missing, f"flwr {version('flwr')}: {name} no longer takes {', '.join(sorted(missing))}; mend {INTERNALS}"


@pytest.mark.parametrize("program", FLAGS)
def test_flowers_programs_take_the_flags_that_they_are_given(program: str) -> None:
    path = shutil.which(program, path=str(Path(sys.executable).parent))
    command = [path] if path else [sys.executable, "-m", "flwr"]
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False).stdout
    missing = [flag for flag in FLAGS[program] if flag not in told]
    assert not missing, f"flwr {version('flwr')}: {program} no longer takes {', '.join(missing)}"


def test_a_superexec_starts_the_program_that_a_device_puts_before_flowers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND, TaskType
    from flwr.supercore.superexec.run_superexec import _get_task_poll_interval

    from fedquit.client.device.join import CLIENTAPP, LOOK_EVERY, environment

    told = environment(tmp_path, [tmp_path / "programs"])
    assert told["PATH"].split(os.pathsep)[0] == str(tmp_path / "programs")
    assert TASK_TYPE_TO_COMMAND[TaskType.CLIENT_APP] == CLIENTAPP
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert _get_task_poll_interval() == float(LOOK_EVERY)


def test_all_flower_internals_are_imported_in_one_module_and_listed_here() -> None:
    assert imports_of(ROOT / INTERNALS) == set(USED)
    for folder in ("client", "server", "strategies", "unlearning", "simulations", "fedquit"):
        for path in (ROOT / folder).rglob("*.py"):
            if path != ROOT / INTERNALS:
                internal = {name for name in imports_of(path) if not name.startswith(PUBLIC)}
                assert not internal, f"{path.relative_to(ROOT)} imports {internal}: that belongs into {INTERNALS}"


def test_the_tables_of_flowers_database_that_hold_messages_are_known() -> None:
    from flwr.supercore.state.schema import corestate_models, linkstate_models, objectstore_models
    from sqlalchemy import LargeBinary

    bases = (corestate_models.FlwrBase, linkstate_models.LinkStateBase, objectstore_models.ObjectStoreBase)
    tables = {table.name: table for base in bases for table in base.metadata.tables.values()}
    gone = set(MESSAGE_TABLES) - set(tables)
    assert not gone, f"flwr {version('flwr')}: the tables {gone} are gone, which the purge empties; mend {INTERNALS}"
    with_bytes = {name for name, table in tables.items() if any(isinstance(c.type, LargeBinary) for c in table.columns)}
    new = with_bytes - set(MESSAGE_TABLES) - OTHER_BYTES
    assert not new, f"flwr {version('flwr')}: do the tables {new} hold messages? then the purge must empty them too"


def test_the_documents_state_the_range_of_flower_that_was_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (flower,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "flwr")
    told = re.search(r"Flower (\S+) to (\S+) were tested", (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8"))
    assert told
    assert f">={told[1].removesuffix('.0')}" in str(flower.specifier)
    assert told[2] in flower.specifier


def test_a_simulation_imports_no_web_framework() -> None:
    code = "import sys, fedquit.client.app, fedquit.simulations.engine.inprocess; print('fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", "it takes longer than a small round"

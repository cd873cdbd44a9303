"""What `fedquit provision` writes for containers: rendered, linted, validated, and compared with what fedquit runs."""

import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedquit.client.device import connection_watch
from fedquit.client.device.last_exchange import begin
from fedquit.errors import FedquitError
from fedquit.server.federation import Federation
from fedquit.server.provision.containers import container_files
from fedquit.server.provision.federation_plan import read_plan
from fedquit.server.provision.provision import provision
from tests.harness.processes import program

PLAN = """name = "clinics"
[server]
host = "clinics-server.default.svc"
bind = "0.0.0.0"
fleet-port = 9643
[[device]]
name = "north"
"""
DEVICE = "devices[0].name=north,devices[0].kitSecret=north-kit,devices[0].dataClaim=north-data"
LARGEST_SECRET = 1024 * 1024  # bytes; Kubernetes takes no larger one


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("containers")
    (folder / "federation.toml").write_text(PLAN)
    provision(read_plan(folder / "federation.toml"), folder / "out", tar=True)
    return folder / "out"


@pytest.fixture(scope="module")
def deploy(out: Path) -> Path:
    return out / "server" / "deploy"


def stages(dockerfile: str) -> dict[str, str]:
    """Return the text of each stage by its name."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", dockerfile, flags=re.MULTILINE)
    return dict(zip(parts[2::3], parts[3::3], strict=True))


def ran(command: list[str], **how: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def rendered(deploy: Path, *given: str) -> list[dict[str, Any]]:
    """Return what the chart makes of the values that `provision` wrote, and of more."""
    command = [program("helm"), "template", "clinics", str(deploy / "chart"), "-f", str(deploy / "values.yaml")]
    return [document for document in yaml.safe_load_all(ran([*command, *given])) if document]


def pods(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in documents if "template" in each["spec"]
    }


def test_compose_gives_the_container_the_servers_folder_as_its_owner(deploy: Path) -> None:
    service = yaml.safe_load((deploy / "compose.yaml").read_text())["services"]["server"]
    [(outside, inside)] = [volume.split(":") for volume in service["volumes"]]
    assert (deploy / outside / "server.toml").is_file()
    assert service["command"] == ["fedquit", "serve", inside]
    assert service["user"] == f"{deploy.stat().st_uid}:{deploy.stat().st_gid}"
    assert service["build"]["target"] in stages((deploy / service["build"]["context"] / "Dockerfile").read_text())
    assert service["network_mode"] == "host", "what listens on loopback in server.toml is reached by nothing else"
    ran([program("docker-compose"), "config"], cwd=deploy)


def test_the_builder_of_the_images_is_sent_no_key(deploy: Path) -> None:
    assert (deploy / ".dockerignore").read_text().splitlines()[1:] == ["*", "!fedquit-*.whl"]


def test_both_images_run_without_root_and_check_their_health(deploy: Path) -> None:
    found = stages((deploy / "Dockerfile").read_text())
    for name, module in (("server", "fedquit.server.page"), ("device", connection_watch.__name__)):
        assert "USER 10001:10001" in found[name]
        check = json.loads(found[name].partition("    CMD ")[2].splitlines()[0])
        assert check[:3] == ["python", "-m", module]
        assert found[name].index("USER") < found[name].index("CMD")


def test_the_linter_of_dockerfiles_has_no_objection(deploy: Path) -> None:
    # versions of packages are not pinned: DL3008, DL3013
    ran(
        [
            program("hadolint"),
            "--ignore",
            "DL3008",
            "--ignore",
            "DL3013",
            "--ignore",
            "DL3059",
            str(deploy / "Dockerfile"),
        ]
    )


def test_a_device_is_unhealthy_before_it_runs_and_when_its_server_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", connection_watch.__name__, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert check().returncode == 1
    assert "start it with fedquit join" in check().stderr
    (tmp_path / "flower").mkdir()
    begin(tmp_path / "flower" / "last-exchange")
    assert check().returncode == 0
    monkeypatch.setattr(connection_watch, "seconds_since", lambda _file: connection_watch.UNHEALTHY + 1)
    with pytest.raises(FedquitError, match="no reply from the server for 301 s"):
        connection_watch.is_connected(tmp_path)


def test_helm_finds_nothing_wrong_with_the_chart(deploy: Path) -> None:
    ran(
        [program("helm"), "lint", "--strict", str(deploy / "chart"), "-f", str(deploy / "values.yaml"), "--set", DEVICE]
    )


def test_what_the_chart_renders_fits_the_schemas_of_kubernetes(deploy: Path, tmp_path: Path) -> None:
    validate = program("kubernetes-validate")
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(rendered(deploy, "--set", DEVICE)))
    for version in ("1.25", "1.35"):
        told = ran([validate, "--strict", "-k", version, str(tmp_path / "all.yaml")])
        assert told.count("passed") == 3


def test_the_pods_serve_the_ports_of_server_toml_and_have_no_rights(deploy: Path) -> None:
    documents = rendered(deploy, "--set", DEVICE)
    federation = Federation.read(deploy.parent)
    [service] = [each for each in documents if each["kind"] == "Service"]
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    assert ports == {"fleet": federation.server.fleet_port, "forget": federation.server.forget_port}
    assert f"{service['metadata']['name']}.default.svc" == federation.server.host
    assert set(pods(documents)) == {"clinics-server", "clinics-device-north"}
    for pod in pods(documents).values():
        assert pod["securityContext"]["runAsNonRoot"]
        for container in [*pod["initContainers"], *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("server.folderSecret=", "server.folderSecret: name the Secret"),
        ("devices[0].name=north", "devices: north needs kitSecret"),
        ("devices[0].kitSecret=x", "devices: each needs a name"),
    ],
)
def test_a_value_that_is_missing_is_named(deploy: Path, given: str, said: str) -> None:
    command = [program("helm"), "template", "clinics", str(deploy / "chart"), "-f", str(deploy / "values.yaml")]
    done = subprocess.run([*command, "--set", given], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr


def unpacked(pod: dict[str, Any], secret: Path, volume: Path) -> None:
    """Run a pod's init container here: its script, with the paths of this machine in place of its own."""
    (container,) = pod["initContainers"]
    (script,) = container["args"]
    script = script.replace("/secret/", f"{secret}/").replace("/srv/", f"{volume}/")
    ran([*container["command"], script])


def test_a_pod_unpacks_its_folder_once_and_keeps_what_it_wrote(out: Path, deploy: Path, tmp_path: Path) -> None:
    secret, volume = tmp_path / "secret", tmp_path / "volume"
    secret.mkdir()
    volume.mkdir()
    ran(["tar", "-C", str(out / "server"), "--exclude", "./deploy", "-czf", str(secret / "server.tar.gz"), "."])
    (secret / "kit.tar.gz").write_bytes((out / "kits" / "north.tar.gz").read_bytes())
    assert sum(path.stat().st_size for path in secret.iterdir()) < LARGEST_SECRET
    found = pods(rendered(deploy, "--set", DEVICE))
    for name, folder, key in (
        ("clinics-server", "fedquit", "server.key"),
        ("clinics-device-north", "kit", "node.key"),
    ):
        unpacked(found[name], secret, volume)
        assert (volume / folder / key).stat().st_mode & 0o077 == 0
        (volume / folder / key).write_text("changed since")
        unpacked(found[name], secret, volume)
        assert (volume / folder / key).read_text() == "changed since"
    assert Federation.read(volume / "fedquit") == Federation.read(out / "server")


def test_a_pod_that_was_stopped_while_it_unpacked_begins_anew(deploy: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "unpacked" / "half").touch()
    with tarfile.open(tmp_path / "server.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("./server.toml"), io.BytesIO())
    unpacked(pods(rendered(deploy))["clinics-server"], tmp_path, tmp_path)
    assert [path.name for path in (tmp_path / "fedquit").iterdir()] == ["server.toml"]


def test_the_charts_version_is_that_of_fedquit() -> None:
    chart = yaml.safe_load((container_files.HERE / "chart" / "Chart.yaml").read_text())
    project = (Path(__file__).resolve().parents[4] / "pyproject.toml").read_text()
    assert f'\nversion = "{chart["appVersion"]}"' in project

"""A device runs the code that its owner approved and no other, and takes settings within its owner's bounds."""

import hashlib
import io
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from torch import nn

from fedquit.client.data.build_data_and_model import initial_model
from fedquit.client.device.approved_code import (
    APP_FILES,
    COMPONENTS,
    KEPT,
    LARGEST,
    OWN,
    REFUSED,
    bundle_digest,
    check_bundle,
)
from fedquit.client.device.bounds import DeviceBounds
from fedquit.client.device.deployed_device import deployed_device
from fedquit.client.device.device_checks import device_checks
from fedquit.client.device.join import CLIENTAPP, environment, write_programs
from fedquit.client.device.processes.approved_clientapp import RUNTIME, UNPACKS, approved_program
from fedquit.client.kit import FILE, Kit
from fedquit.errors import InputError, OtherCodeError, OutOfBoundsError
from fedquit.server.federation import Federation
from fedquit.server.serve.superlink import Flower
from fedquit.settings import Settings
from fedquit.strategies.grid.array_record import arrays_of_record
from tests.client.device.kit_messages import (
    OTHER,
    REQUEST,
    SETTINGS,
    committed,
    forget,
    make_kit,
    mark,
    model_of,
    rows,
    said,
    send,
    trained_on,
)

EVIL = {**APP_FILES, "deployed/client_app.py": "import os\nos.abort()\n"}


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return write_kit(tmp_path / "kit")


def write_kit(folder: Path, **said: Any) -> Kit:
    folder.mkdir(exist_ok=True)
    told = {"federation": "clinics", "superlink": "h:1", "forget": "h:2", "name": "north", "number": 4, **said}
    (folder / "device.toml").write_text(tomli_w.dumps(told), encoding="utf-8")
    return Kit.read(folder)


def bundle(files: Mapping[str, str] = APP_FILES, components: Mapping[str, str] = COMPONENTS, **config: Any) -> bytes:
    """Return a bundle as Flower's: files, a pyproject.toml with the run's config, a listing."""
    app = {"publisher": "fedquit", "components": dict(components), "config": config}
    project = tomli_w.dumps({"project": {"name": "clinics", "version": "1"}, "tool": {"flwr": {"app": app}}})
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in {**files, "pyproject.toml": project, ".info/CONTENT": "listing"}.items():
            archive.writestr(name, text)
    return made.getvalue()


def test_what_flower_makes_of_our_servers_app_is_known_to_every_device(tmp_path: Path, kit: Kit) -> None:
    flower = Flower(tmp_path, Federation(name="clinics"))
    flower.prepare()
    subprocess.run(
        [sys.executable, "-c", "from flwr.cli.app import app; app()", "build", "--app", str(flower.home / "app")],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    (built,) = tmp_path.glob("*.fab")
    assert bundle_digest(built.read_bytes()) == OWN
    check_bundle(built.read_bytes(), kit)


def test_other_settings_are_the_same_code_and_need_no_approval(kit: Kit) -> None:
    assert bundle_digest(bundle(lr=0.1)) == bundle_digest(bundle(lr=0.5, model="cnn")) == OWN
    check_bundle(bundle(lr=0.5), kit)


@pytest.mark.parametrize(
    "sent",
    [
        bundle(EVIL),
        bundle({**APP_FILES, "fedquit/__init__.py": ""}),
        bundle({**APP_FILES, "torch.py": "import os"}),
        bundle(components={**COMPONENTS, "clientapp": "os:abort"}),
        bundle({name: text for name, text in APP_FILES.items() if "server" not in name}),
    ],
    ids=["other text", "a file that hides ours", "one more file", "another entrance", "a file less"],
)
def test_changed_code_is_refused_kept_for_a_look_and_the_way_out_works(kit: Kit, sent: bytes) -> None:
    with pytest.raises(OtherCodeError, match="nothing of it was run") as refused:
        check_bundle(sent, kit)
    digest = bundle_digest(sent)
    assert f'approve = ["{digest}"]' in str(refused.value)
    (kept,) = (kit.folder / "refused").iterdir()
    assert kept.read_bytes() == sent
    check_bundle(sent, write_kit(kit.folder, approve=[digest]))
    with pytest.raises(OtherCodeError):
        check_bundle(bundle({**EVIL, "more.py": ""}), write_kit(kit.folder, approve=[digest]))


def twice() -> bytes:
    """Return a bundle whose reader chooses which of two files of one name it gets."""
    made = io.BytesIO(bundle())
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("Deployed/client_app.py", EVIL["deployed/client_app.py"])
    return made.getvalue()


@pytest.mark.parametrize("sent", [b"", b"PK\x03\x04nothing", bundle()[:200], twice(), bundle({}, {"clientapp": "x"})])
def test_what_is_no_bundle_or_has_a_file_twice_is_refused(kit: Kit, sent: bytes) -> None:
    with pytest.raises(OtherCodeError):
        check_bundle(sent, kit)


def test_a_server_cannot_fill_the_disk_with_what_is_refused(kit: Kit) -> None:
    for number in range(12):
        with pytest.raises(OtherCodeError, match="nothing of it was run"):
            check_bundle(bundle({**APP_FILES, "more.py": f"number = {number}"}), kit)
    kept = {path.name for path in (kit.folder / REFUSED).iterdir()}
    assert len(kept) == KEPT
    assert f"{bundle_digest(bundle({**APP_FILES, 'more.py': 'number = 11'}))[:16]}.zip" in kept
    with pytest.raises(OtherCodeError, match="a bundle of more than"):
        check_bundle(bytes(LARGEST + 1), kit)


def test_the_checks_of_a_device_say_what_may_run_and_what_was_refused(kit: Kit) -> None:
    def said(kit: Kit) -> tuple[str, str]:
        (code,) = (found for found in device_checks(kit.folder) if found.name == "code")
        return code.state, code.text

    assert said(kit) == ("ok", "fedquit's own app runs here, and nothing else")
    with pytest.raises(OtherCodeError):
        check_bundle(bundle(EVIL), kit)
    assert "; 1 others that a server sent were refused" in said(write_kit(kit.folder, approve=["a"]))[1]
    assert "what device.toml approves (1)" in said(write_kit(kit.folder, approve=["a"]))[1]
    assert said(write_kit(kit.folder, bounds={"lr": -1}))[0] == "wrong"


def test_flowers_program_looks_before_it_unpacks(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = list[bytes]()
    runtime = import_module(RUNTIME)
    place = kit.folder / "apps"

    def unpack(content: bytes, **_how: Any) -> Path:
        unpacked.append(content)
        zipfile.ZipFile(io.BytesIO(content)).extractall(
            place, [name for name in zipfile.ZipFile(io.BytesIO(content)).namelist() if not name.startswith(".info")]
        )
        return place

    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    monkeypatch.setattr(runtime, UNPACKS, unpack)
    approved_program(kit.folder)
    with pytest.raises(OtherCodeError):
        getattr(runtime, UNPACKS)(bundle(EVIL), skip_prompt=True)
    assert unpacked == []
    assert getattr(runtime, UNPACKS)(bundle(), skip_prompt=True) == place
    assert unpacked == [bundle()]


@pytest.mark.parametrize(
    "left",
    [
        {"deployed/client_app.py": "import os\nos.abort()\n"},
        {"fedquit/client/app.py": "app = None"},
        {"deployed/__pycache__/client_app.cpython-311.pyc": "compiled"},
    ],
)
def test_code_that_is_no_longer_approved_does_not_run_from_its_old_folder(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, left: dict[str, str]
) -> None:
    """Flower takes a folder with the first 8 hex digits of an app's hash for that app."""
    home, sent = kit.folder / "flower", listed_bundle()
    monkeypatch.setenv("FLWR_HOME", str(home))
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    runtime = import_module(RUNTIME)
    monkeypatch.setattr(runtime, UNPACKS, getattr(runtime, UNPACKS))
    approved_program(kit.folder)
    place = getattr(runtime, UNPACKS)(sent, skip_prompt=True)
    assert place.parent == home / "apps"
    assert place.name.endswith(hashlib.sha256(sent).hexdigest()[:8])
    for name, text in left.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    assert getattr(runtime, UNPACKS)(sent, skip_prompt=True) == place
    found = {path.relative_to(place).as_posix(): path.read_text() for path in place.rglob("*") if path.is_file()}
    assert found.keys() == {*APP_FILES, "pyproject.toml"}
    assert {name: found[name] for name in APP_FILES} == dict(APP_FILES)


def listed_bundle() -> bytes:
    """Return a bundle of our app with the listing that Flower checks."""
    with zipfile.ZipFile(io.BytesIO(bundle())) as plain:
        files = {name: plain.read(name) for name in plain.namelist() if not name.startswith(".info")}
    listing = "\n".join(f"{name},{hashlib.sha256(text).hexdigest()},{8 * len(text)}" for name, text in files.items())
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in {**files, ".info/CONTENT": listing.encode()}.items():
            archive.writestr(name, text)
    return made.getvalue()


@pytest.mark.skipif(os.name != "posix", reason="programs are scripts")
def test_the_program_that_a_device_starts_is_the_one_that_looks(kit: Kit) -> None:
    home = kit.folder / "flower"
    home.mkdir()
    folders = write_programs(home)
    path = environment(home, folders)["PATH"].split(os.pathsep)
    assert path[: len(folders)] == [str(folder) for folder in folders]
    assert "approved_clientapp" in (folders[-1] / CLIENTAPP).read_text()
    done = subprocess.run(
        [folders[-1] / CLIENTAPP, "--help"], env={**os.environ, "FLWR_HOME": str(home)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--token" in done.stdout + done.stderr


RUN = {**Settings().run_config(), "classes": "10", "input-shape": "1x8x8"}


@pytest.mark.parametrize(
    ("bounds", "run", "message", "said"),
    [
        ({"lr": 0.5}, {"lr": 0.6}, {}, "sets lr to 0.6, and this device takes at most 0.5"),
        ({"lr": 0.5}, {}, {"lr": 5.0}, "sets lr to 5.0"),
        ({"lr": 0.5}, {}, {"lr": float("nan")}, "sets lr to nan"),
        ({"lr": 0.5}, {}, {"lr": -5.0}, "sets lr to -5.0"),
        (
            {"objective": ["fedavg"]},
            {},
            {"proximal-mu": 1e9},
            "sets objective to 'fedprox', and this device takes fedavg",
        ),
        ({"lr": 0.5}, {}, {"method-settings": "lr=3.0"}, "sets lr to 3.0"),
        ({"lr": 5e-4}, {"lr": 1e-4}, {"method-settings": "lr=auto"}, "sets lr to 0.001"),
        ({"lr": 0.05}, {"lr": 0.05}, {"method": "orthogonal"}, "sets lr to 0.1"),
        ({"local-epochs": 5}, {}, {"method": "auxiliary-head"}, "sets local-epochs to 10"),
        ({"local-epochs": 2}, {"local-epochs": 3}, {}, "sets local-epochs to 3"),
        ({"local-epochs": 2}, {}, {"method-settings": "epochs=90"}, "sets local-epochs to 90"),
        (
            {"local-epochs": 5},
            {},
            {"method-settings": "lr=auto,near=1e-9"},
            "sets lr to auto, which may take 300 passes .* and this device takes at most 5: set lr to a number",
        ),
        ({"objective": ["fedprox"]}, {}, {}, "sets objective to 'fedavg', and this device takes fedprox"),
        ({"model": ["mlp"]}, {"model": "cnn"}, {}, "sets model to 'cnn'"),
        ({"method": ["negate"]}, {}, {"method": "fedquit"}, "sets method to 'fedquit'"),
        (
            {},
            {"mentee": "os:system"},
            {},
            "sets model to 'os:system', and this device takes none that it does not name",
        ),
        ({}, {"model": "os:system"}, {}, "sets model to 'os:system', and this device takes none that it does not name"),
    ],
)
def test_what_the_server_sets_beyond_the_owners_bounds_is_refused(
    tmp_path: Path, bounds: dict[str, Any], run: dict[str, Any], message: dict[str, Any], said: str
) -> None:
    kit = write_kit(tmp_path / "kit", bounds=bounds)
    with pytest.raises(OutOfBoundsError, match=said):
        deployed_device(kit.folder, {**RUN, **run}, "1", message)


CALLED: list[str] = []


def never(**_: object) -> None:
    """Stands for something installed on the device that a server has no business to call."""
    CALLED.append("a model")


@pytest.mark.parametrize("named", ["model", "dataset"])
@pytest.mark.parametrize("compressed", ["", "fp16"])
def test_nothing_that_a_server_names_is_called_before_it_is_checked(
    tmp_path: Path, named: str, compressed: str
) -> None:
    kit = make_kit(tmp_path / "kit")
    form = {"classes": "3", "input_shape": "1x4x4"} if named == "model" else {}
    settings = Settings.read({named: f"{__name__}:never", "compress_down": compressed, **form})
    with pytest.raises(
        (InputError, OutOfBoundsError), match=r"this device takes none|must say classes and input-shape"
    ):
        send(kit, "train", settings=settings)
    assert CALLED == []


def test_a_method_that_a_device_has_not_installed_stops_no_training(tmp_path: Path) -> None:
    for number, bounds in enumerate(({}, {"lr": 0.5})):
        kit = write_kit(tmp_path / f"kit{number}", bounds=bounds)
        deployed_device(kit.folder, RUN, "1", {"method": "their-method", "method-settings": "lr=0.1"})
    with pytest.raises(OutOfBoundsError, match=r"sets lr to 3\.0"):
        deployed_device(kit.folder, RUN, "1", {"method": "their-method", "method-settings": "lr=3.0"})


def test_within_the_bounds_a_device_works(tmp_path: Path) -> None:
    bounds = {"lr": 0.5, "local-epochs": 2, "objective": ["fedavg"], "model": ["cnn", "my.nets:small"]}
    kit = write_kit(tmp_path / "kit", bounds={**bounds, "method": ["fedquit"]})
    deployed_device(kit.folder, RUN, "1", {"lr": 0.05, "method-settings": "lr=0.001"})
    deployed_device(kit.folder, {**RUN, "model": "my.nets:small"}, "1", {})
    for number, free in enumerate(({"lr": 0.5}, {"local-epochs": 300})):
        other = write_kit(tmp_path / f"kit{number}", bounds=free)
        deployed_device(other.folder, RUN, "1", {"method-settings": "lr=auto"})


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"bounds": {"speed": 3}}, "unknown key in .bounds. of .* 'speed'"),
        ({"bounds": {"lr": "much"}}, "lr is 'much'; it must be a number above 0"),
        ({"bounds": {"lr": 0}}, "lr is 0; it must be a number above 0"),
        ({"bounds": {"model": "mlp"}}, "model is 'mlp'; it must be a list of names"),
    ],
)
def test_a_mistake_in_the_bounds_is_named(tmp_path: Path, said: dict[str, Any], wrong: str) -> None:
    kit = write_kit(tmp_path / "kit", **said)
    with pytest.raises(InputError, match=wrong):
        DeviceBounds.read(kit.bounds, "device.toml")


@pytest.mark.parametrize(("said", "wrong"), [({"approve": "abc"}, "a list of digests"), ({"bounds": [1]}, "a table")])
def test_a_kit_that_says_it_wrongly_cannot_be_read(tmp_path: Path, said: dict[str, Any], wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        write_kit(tmp_path / "kit", **said)


PRIVATE: dict[str, Any] = {"forget-clip": 0.1, "forget-noise": 4.0}


def private_kit(folder: Path, **more: Any) -> Kit:
    """Return a kit whose owner wants the unlearned model clipped and noisy."""
    kit = make_kit(folder)
    bounds = "\n\n" + tomli_w.dumps({"bounds": {**PRIVATE, **more}})
    (kit.folder / FILE).write_text((kit.folder / FILE).read_text() + bounds)
    mark(kit, 1, 5)
    return kit


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({}, "sets forget-clip to 0 .0: no clipping., and this device takes at most 0.1"),
        ({**PRIVATE, "forget-clip": 0.2}, "sets forget-clip to 0.2"),
        ({**PRIVATE, "forget-noise": 3.9}, "sets forget-noise to 3.9, and this device takes at least 4"),
    ],
)
def test_less_noise_than_the_owner_wants_sends_no_model_yet_retires_the_data(
    tmp_path: Path, server: dict[str, Any], said: str
) -> None:
    kit = private_kit(tmp_path / "kit")
    assert len(trained_on(kit)) == 12  # training has nothing to do with it
    with pytest.raises(OutOfBoundsError, match=said):
        forget(kit, **server)
    assert not (kit.folder / "replies").exists()
    assert trained_on(kit).isdisjoint(rows(kit, 1, 5))


def test_with_noise_a_device_sends_one_model_and_reports_nothing_else(tmp_path: Path) -> None:
    kit = private_kit(tmp_path / "kit")
    first = forget(kit, **PRIVATE)
    assert model_of(forget(kit, **PRIVATE)) == model_of(first)  # asked again, the same
    assert said(first) == {"num-examples": 2, "loss": 0.0, "cpu-seconds": 0.0}
    assert dict(first.config_records["config"]) == {
        "samples-digest": committed(kit, *rows(kit, 1, 5))
    }  # as the ask says
    send(kit, "train", settled=REQUEST)  # a server that lies would have the device lose count
    other: dict[str, Any]
    for other in ({}, {"method": "ascent"}, {"method-settings": "lr=0.01"}, {"seed": 6}):
        with pytest.raises(OutOfBoundsError, match="sends one only"):
            forget(kit, **{**PRIVATE, **other})
    with pytest.raises(OutOfBoundsError, match="reports no metrics on samples that it forgot"):
        send(kit, "evaluate", samples="forget", request=REQUEST)
    verified = send(kit, "evaluate", samples="keep", request=REQUEST, verify="1")
    assert set(verified.metric_records["metrics"]) == {"num-examples", "loss", "accuracy"}


@pytest.mark.parametrize("about", [{"granularity": "client"}, {"granularity": "class", "classes": "2"}])
@pytest.mark.parametrize("owner", [True, False])
def test_with_noise_only_a_salted_digest_of_a_client_or_a_class_is_sent(
    tmp_path: Path, about: dict[str, str], owner: bool
) -> None:
    kit = private_kit(tmp_path / "kit") if owner else make_kit(tmp_path / "kit")
    for _ in range(2):
        reply = forget(kit, OTHER, **PRIVATE, **about)
        forgotten = rows(kit, *(range(12) if about["granularity"] == "client" else range(2, 12, 3)))
        assert dict(reply.config_records["config"]) == {"samples-digest": committed(kit, *forgotten)}
        assert said(reply).keys() == {"num-examples", "loss", "cpu-seconds"}
        assert (said(reply)["loss"], said(reply)["cpu-seconds"]) == (0.0, 0.0)


def normed(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    size = math.prod(input_shape)
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(size), nn.Linear(size, num_classes))


def test_with_noise_batch_statistics_come_back_as_they_were_sent(tmp_path: Path) -> None:
    name = f"{__name__}:normed"
    kit, settings = private_kit(tmp_path / "kit", model=[name]), SETTINGS.model_copy(update={"model": name})
    start = initial_model(settings, 0).state_dict()
    reply = forget(kit, state=start, settings=settings, **{**PRIVATE, "method-settings": "statistics=local"})
    sent = arrays_of_record(reply.array_records["arrays"])
    assert not np.array_equal(sent["1.weight"], start["1.weight"])
    for entry in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert np.array_equal(sent[entry], start[entry])

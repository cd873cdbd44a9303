"""What keeps the house in order: one version, one list of settings, links and bundle that find the same code."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import fedquit

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = ("client", "server", "simulations", "strategies", "unlearning")


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == fedquit.__version__
    assert f"## {fedquit.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_folder_with_code_is_packaged() -> None:
    found = {
        ".".join(["fedquit", *path.parent.relative_to(ROOT).parts])
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    own = {f"fedquit.{path.parent.name}" for path in (ROOT / "fedquit").glob("*/__init__.py")}
    own -= {f"fedquit.{folder}" for folder in FOLDERS}  # links
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == {"fedquit", *own, *found}


def test_the_links_point_at_the_folders() -> None:
    for folder in FOLDERS:
        assert (ROOT / "fedquit" / folder).resolve() == ROOT / folder


def test_a_bundle_carries_what_the_apps_import_and_works_without_links(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-c", "from flwr.cli.app import app; app()", "build", "--app", str(ROOT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (bundle,) = tmp_path.glob("*.fab")
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "app")
    assert not [folder for folder in FOLDERS if (tmp_path / "app" / "fedquit" / folder).exists()]
    assert (tmp_path / "app" / "fedquit" / "settings" / "run.py").is_file()
    code = "import fedquit.client.app, fedquit.server.app; print(fedquit.server.app.__file__)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "app",
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(ran.stdout.strip()) == tmp_path / "app" / "server" / "app.py"


def test_skipped_tests_name_the_missing_program_and_how_to_install_it() -> None:
    environment = {**os.environ, "PATH": "/nowhere", "CI": ""}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/server/page/test_browser.py",
        "-k",
        "every_page",
        "-p",
        "no:cacheprovider",
    ]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert re.search(r"^[1-9]\d* skipped for want of Chromium: apt-get install chromium$", ran.stdout, re.MULTILINE), (
        ran.stdout
    )


def test_the_lowest_versions_that_are_tested_are_those_of_pyproject() -> None:
    ran = subprocess.run([sys.executable, ".ci/oldest.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    told = dict(line.split("==") for line in ran.stdout.splitlines())
    bounds = {
        r.split("[")[0].split(">=")[0]: r for r in PROJECT["project"]["dependencies"] if not r.startswith("torch")
    }
    assert set(bounds) <= set(told)
    assert all(f">={told[name]}" in bounds[name] for name in bounds)


def test_the_readme_names_only_commands_and_targets_that_exist() -> None:
    from fedquit.cli import COMMANDS

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```(?:sh|console|bash)\n(.*?)```", readme, flags=re.DOTALL))
    commands = set(re.findall(r"^(?:\.venv/bin/)?fedquit ([a-z]+)", blocks, flags=re.MULTILINE))
    targets = set(re.findall(r"^make ([a-z]+)", blocks, flags=re.MULTILINE))
    assert {"simulate", "test"} <= targets
    assert "simulate" in commands
    assert commands <= set(COMMANDS)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_the_objective_in_the_documents_works() -> None:
    import torch

    from fedquit.client.models.architectures import build_model
    from fedquit.client.objectives import LocalRound
    from fedquit.unlearning import Samples

    text = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, object] = {"__name__": "example"}
    exec(example, names)
    model = build_model("mlp", input_shape=(1, 4, 4), num_classes=3, seed=0)
    samples = Samples(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    done = names["Smoothed"]().train(model, samples, LocalRound(seed=0, lr=0.1))  # type: ignore[operator]
    assert 0 < done.loss < 9


def test_the_documents_name_every_objective_and_its_defaults() -> None:
    from fedquit.client.objectives import GATES, OBJECTIVES

    text = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` (.*)$", text, flags=re.MULTILINE))
    classes: dict[str, type] = {**OBJECTIVES, **GATES}
    assert set(rows) - {"reduction"} == set(classes)
    for name, cls in classes.items():
        made = cls()
        for key, value in re.findall(r"`(\w+)=([\w.]+)`", rows[name]):
            default = getattr(made, key)
            assert value == str(default).lower() or float(value) == default


def test_the_documents_name_every_strategy_and_its_settings() -> None:
    from fedquit.strategies.rules import PRIVACY, RULES, settings_of_rule

    text = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8").partition("## Accuracies")[0]
    rows = dict(re.findall(r"^\| `([a-z-]+)` (.*)$", text, flags=re.MULTILINE))
    assert set(rows) == {*RULES, *PRIVACY}
    for name, rule in {**RULES, **PRIVACY}.items():
        shown = dict(re.findall(r"`([a-z0-9-]+)=([^`]+)`", rows[name]))
        if name.startswith("client"):
            assert f"as `{name.replace('client', 'server')}`" in rows[name]
            continue
        assert shown == {key: "…" if value is None else str(value) for key, value in settings_of_rule(rule).items()}


def test_the_method_in_the_documents_works() -> None:
    import torch

    from fedquit.client.models.architectures import build_model
    from fedquit.unlearning import Samples

    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, object] = {"__name__": "example"}
    exec(example, names)
    model = build_model("mlp", input_shape=(1, 4, 4), num_classes=3, seed=0)
    samples = Samples(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    names["ZeroHead"]().forget(model, samples, seed=0)  # type: ignore[operator]
    assert not list(model.parameters())[-2].any()

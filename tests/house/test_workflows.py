"""The workflows for GitHub: linted, no wider than needed, and about the same versions and images as the project.

No workflow has run so far: what a runner does with them is not known.
"""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

from fedquit.server.provision.containers import container_files
from tests.harness.processes import program

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".github" / "workflows"


def workflow(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yml").read_text())
    return read


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job.get("steps", [])]


def test_the_auditor_of_workflows_finds_nothing_of_weight() -> None:
    command = [program("zizmor"), "--offline", "--no-progress", "--format", "json", "--min-severity", "medium"]
    done = subprocess.run([*command, str(FOLDER)], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout) == [], done.stderr
    assert done.returncode == 0, done.stderr


def test_actions_are_pinned_by_hash() -> None:
    used = {step["uses"] for name in ("checks", "release") for step in steps(name) if "uses" in step}
    assert len(used) > 5
    assert [name for name in used if not re.search(r"@[0-9a-f]{40}$", name)] == []


def test_the_workflow_tests_the_python_versions_that_the_project_claims() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = {found[1] for text in project["classifiers"] if (found := re.search(r":: (3\.\d+)$", text))}
    jobs = workflow("checks")["jobs"]
    tested = {step.get("with", {}).get("python-version") for step in jobs["all"]["steps"]} - {None}
    assert tested | set(jobs["versions"]["strategy"]["matrix"]["python"]) == claimed


def test_a_system_that_nobody_has_tried_fails_nothing_and_is_not_claimed() -> None:
    assert workflow("checks")["jobs"]["elsewhere"]["continue-on-error"] is True
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    systems = {text for text in project["classifiers"] if text.startswith("Operating System")}
    assert systems == {"Operating System :: POSIX :: Linux"}


def test_nothing_is_published_unless_the_checks_pass() -> None:
    jobs = workflow("release")["jobs"]
    assert jobs["checks"]["uses"] == "./.github/workflows/checks.yml"
    for job in ("pypi", "images"):
        assert set(jobs[job]["needs"]) == {"checks", "build"}
    assert workflow("release")["permissions"] == {}
    writers = {name for name, job in jobs.items() if "write" in str(job.get("permissions"))}
    assert "checks" not in writers


def test_the_release_builds_the_images_that_the_dockerfile_describes() -> None:
    images = workflow("release")["jobs"]["images"]
    dockerfile = (container_files.HERE / "Dockerfile").read_text()
    assert set(images["strategy"]["matrix"]["target"]) == {"server", "device"}
    assert all(f" AS {target}\n" in dockerfile for target in images["strategy"]["matrix"]["target"])
    (push,) = [step["with"] for step in images["steps"] if "build-push-action" in step.get("uses", "")]
    assert push["platforms"] == "linux/amd64,linux/arm64"
    assert push["provenance"] == "mode=max"
    (copied,) = [step["run"] for step in images["steps"] if "dockerignore" in step.get("run", "")]
    for source in re.findall(r"cp (\S+) ", copied):
        assert (ROOT / source).is_file()

"""`make bench`: time the engines beside each other and write docs/results/speed.md, its figure and its numbers."""

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import click

from tests.benchmarks.speed.passes import time_passes
from tests.benchmarks.speed.speed_page import draw, page
from tests.benchmarks.speed.turns import time_work
from tests.benchmarks.speed.whole_runs import time_runs
from tests.benchmarks.speed.works import WORKS


@click.command()
@click.option("--work", "names", multiple=True, type=click.Choice(list(WORKS)), help="which; all if not given")
@click.option("--workers", default=os.cpu_count() or 1, show_default=True)
@click.option("--runs", default=5, show_default=True, help="rounds of each engine that count, at least")
@click.option("--whole", default=3, show_default=True, help="whole runs of many clients that count; 0: none")
@click.option("--ray/--no-ray", default=True, help="time Flower's Ray engine too")
@click.option("--only-pass", is_flag=True, help="time FedQUIT's pass again; the rest is that of OUT/speed.json")
@click.option("--out", type=click.Path(path_type=Path), help="folder for speed.md, speed.json and speed.png")
@click.option("--json", "as_json", is_flag=True, help="print as JSON")
def main(
    names: tuple[str, ...],
    workers: int,
    runs: int,
    whole: int,
    ray: bool,
    only_pass: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time rounds of every engine in turn, and whole runs."""
    earlier = out and out / "speed.json"
    if only_pass and not (earlier and earlier.exists()):
        raise click.UsageError("--only-pass: give --out, a folder with the speed.json of a whole benchmark")
    if only_pass and earlier:
        document: dict[str, Any] = json.loads(earlier.read_text(encoding="utf-8"))
    else:
        document = {
            "date": _today(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": _versions(),
            "workers": workers,
            "works": {name: time_work(WORKS[name], workers=workers, runs=runs, ray=ray) for name in names or WORKS},
            "whole": time_runs(whole) if whole else None,
        }
    document["pass"] = {"date": _today(), **time_passes(WORKS["W1"], runs)}
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "speed.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (out / "speed.md").write_text(page(document), encoding="utf-8")
        draw(document, out / "speed.png")
    click.echo(json.dumps(document, indent=1) if as_json else page(document))


def _today() -> str:
    return time.strftime("%Y-%m-%d")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "flwr")} | {"python": platform.python_version()}


if __name__ == "__main__":
    main()

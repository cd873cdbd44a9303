"""The command `fedquit shadows`: parses, makes one call, prints."""

import json
from pathlib import Path

import click

from fedquit.processes.chosen_device import device_options


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--models", required=True, type=click.IntRange(min=2), metavar="N", help="number of shadow models, even")
@click.option("--plain", is_flag=True, help="do not unlearn: for plain LiRA, and to attack the original model")
@click.option("--out", type=click.Path(path_type=Path), help="folder for them [RUN/shadows, or RUN/shadows-plain]")
@click.option("--jobs", type=click.IntRange(min=1), help="runs at work at once [as many as cores]")
@device_options
@click.option("--overwrite", is_flag=True, help="replace the shadow models in --out")
@click.option("--resume", is_flag=True, hidden=True, help="what it does anyway")
@click.option("--json", "as_json", is_flag=True, help="print the list of shadow models as JSON, and nothing else")
def shadows(
    run: Path,
    models: int,
    plain: bool,
    out: Path | None,
    jobs: int | None,
    overwrite: bool,
    resume: bool,
    as_json: bool,
) -> None:
    """Train shadow models of the run in the folder RUN, for U-LiRA in `fedquit audit`.

    Each is a run of its own by the same engine, with other seeds, and has a random half of the samples that RUN's
    requests are about: it is trained on that half, then forgets it by RUN's method and recovers. It never sees the
    other half. Every sample is in exactly half of the models. The same command resumes after a kill; a larger
    --models adds models.

    \b
    fedquit shadows runs/mine --models 64
    fedquit audit runs/mine/models/recovered.safetensors --run runs/mine \\
      --shadows runs/mine/shadows/shadows.json
    """  # noqa: D301 - click's sign that lines stay as they are
    del resume
    from fedquit.simulations.audit.shadow_runs import make_shadows
    from fedquit.simulations.compare.cells.cells_progress import CompareProgress

    path, document = make_shadows(
        run, models, plain=plain, out=out, jobs=jobs, overwrite=overwrite, progress=CompareProgress
    )
    if as_json:
        click.echo(json.dumps(document, indent=1, allow_nan=False))
    else:
        made = document["models"]
        samples = len(made[0]["in"]) + len(made[0]["out"])
        click.echo(f"{len(made)} shadow models ({document['kind']}); each of {samples} samples is in half of them")
        click.echo(f"For fedquit audit: --shadows {path}")

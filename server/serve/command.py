"""The command `fedquit serve`: parses, keeps the server alive, says what happens."""

import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fedquit.extras import check_extra


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--no-proxy", is_flag=True, help="run no nginx: there is a proxy already")
@click.option("--track", default="", metavar="NAMES", help="log it to tensorboard, mlflow or wandb; several: NAME,NAME")
@click.option("--json", "as_json", is_flag=True, help="print every event as a line of JSON, and nothing else")
def serve(folder: Path, no_proxy: bool, track: str, as_json: bool) -> None:
    """Run the server in FOLDER, which `fedquit provision` made: it trains, forgets and recovers until it is ended.

    Restarts what dies, and resumes after a crash. End it with Ctrl-C or SIGTERM.
    """
    check_extra("server")  # its parts are processes of their own, which could only say so in their logs
    from fedquit.server.serve.serve import START_WITHIN, line_of, make_server
    from fedquit.server.serve.track_ledger import TrackerTroubles
    from fedquit.trackers import tracker_names

    def tell(event: Mapping[str, Any]) -> None:
        entry = {"at": round(time.time(), 3), **event}
        click.echo(json.dumps(entry) if as_json else f"{time.strftime('%H:%M:%S')} {line_of(event)}")

    supervisor, run = make_server(folder, proxy=not no_proxy, listener=tell, trackers=tracker_names(track))
    troubles = TrackerTroubles(folder, tell)

    def look() -> None:
        troubles.tend()
        run.tend()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.ask_to_stop())
    supervisor.start(START_WITHIN)
    try:
        run.begin()
        tell({"event": "ready"})
    except BaseException:
        supervisor.stop()
        raise
    supervisor.run(look)

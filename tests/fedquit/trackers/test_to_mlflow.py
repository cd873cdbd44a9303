"""What MLflow does besides following a run, and must not."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedquit.trackers.tracker import TrackedRun

pytest.importorskip("mlflow")
RUN = {"run_id": "a" * 32, "run_uuid": "a" * 32, "experiment_id": "1", "status": "RUNNING", "artifact_uri": "here"}
ANSWERS = {
    "experiments/get-by-name": {"experiment": {"experiment_id": "1", "name": "fedquit", "lifecycle_stage": "active"}},
    "runs/create": {"run": {"info": RUN, "data": {}}},
    "runs/get": {"run": {"info": RUN, "data": {}}},
    "runs/update": {"run_info": RUN},
}


class Answering(BaseHTTPRequestHandler):
    """Answers as a tracking server does, as far as a run is begun and ended."""

    def do_GET(self) -> None:
        """Answer by the end of the path."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = [answer for end, answer in ANSWERS.items() if self.path.partition("?")[0].endswith(end)]
        content = json.dumps(found[0] if found else {}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815 - the name is of the base class

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as answering:
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{answering.server_port}"
        answering.shutdown()


def test_a_run_that_a_server_follows_prints_nothing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedquit.trackers.to_mlflow import ToMLflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    ToMLflow(TrackedRun("a run", tmp_path)).end(finished=True)
    assert capsys.readouterr().out == ""

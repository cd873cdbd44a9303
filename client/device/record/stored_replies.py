"""Replies to forget steps, kept until the server has them: asked again, a device answers the same model, bit for bit.

RECORD's folder/replies/REQUEST-EXERCISE.safetensors
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from fedquit.client.device.record.record import Record
from fedquit.client.device.record.record_rows import Forgotten
from fedquit.client.models.model_file import model_bytes, tensors_in
from fedquit.files import explained, write_whole

PRIVATE = 0o600
"""A model just after forgetting is for nobody but the device and its server."""


class Replies:
    """The replies that a record keeps."""

    def __init__(self, record: Record) -> None:
        self._database, self._now = record.database, record.now
        self._folder = record.database.path.parent / "replies"

    def find(self, request: str, exercise: str) -> Forgotten | None:
        """Return the reply to an exercise of a request; None: there is none, or its file is gone or damaged."""
        rows = self._database.read(
            "SELECT num_examples, loss, metrics, model_out FROM replies WHERE request = ? AND exercise = ?",
            request,
            exercise,
        )
        file = self._file(request, exercise)
        if not rows or not file.is_file():
            return None
        num_examples, loss, metrics, model_out = rows[0]
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != model_out:
            return None
        return Forgotten(tensors_in(content, file), num_examples, loss, json.loads(metrics))

    def keep(self, request: str, exercise: str, done: Forgotten) -> None:
        """Keep a reply: first its model, then the row that says that it is whole."""
        file, content = self._file(request, exercise), model_bytes(done.state)
        with explained(file):
            self._folder.mkdir(exist_ok=True)
            self._folder.chmod(0o700)
        write_whole(file, content, PRIVATE)
        name, metrics = hashlib.sha256(content).hexdigest(), json.dumps(dict(done.metrics))
        row = (request, exercise, done.num_examples, done.loss, metrics, name)
        with self._database.writing() as cursor:
            cursor.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, self._now()))

    def is_answered(self, request: str) -> bool:
        """Say whether there ever was a reply to a request, dropped since or not."""
        return bool(self._database.read("SELECT 1 FROM replies WHERE request = ?", request))

    def drop(self, requests: Iterable[str]) -> None:
        """Drop the replies to requests that the server is done with; what is left says that there was one."""
        for request in requests:
            with self._database.writing() as cursor:
                cursor.execute("UPDATE replies SET loss = 0.0, metrics = '{}' WHERE request = ?", (request,))
            for file in self._folder.glob("*.safetensors"):
                if file.stem.startswith(f"{request}-"):
                    file.unlink(missing_ok=True)

    def _file(self, request: str, exercise: str) -> Path:
        return self._folder / f"{request}-{exercise}.safetensors"

"""What lies between a device and its server, and may break: it passes connections on, cuts, refuses or stalls them."""

import socket
import threading
import time
from contextlib import suppress

PASS, CUT, STALL = "pass", "cut", "stall"
LOOK = 0.2  # seconds between two looks of a stalled connection


class Forwarder:
    """Passes connections on to a port of this machine.

    Attributes:
        mode: `PASS`; `CUT`: each connection that comes is closed at once, as a TLS handshake that breaks off; `STALL`:
            connections are taken, and nothing passes in either direction.
        cut: how many it has closed.
        passed: bytes that came back from the server.
        port: that it listens on.
    """

    def __init__(self, target: int) -> None:
        self.target, self.mode, self.cut, self.passed = target, PASS, 0, 0
        self._open, self.port = set[socket.socket](), 0
        self.listen()

    def listen(self) -> None:
        """Take connections, and pass them on."""
        self._listening = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port, self.mode = int(self._listening.getsockname()[1]), PASS
        threading.Thread(target=self._serve, args=(self._listening,), daemon=True).start()

    def refuse(self) -> None:
        """Close every connection and listen no more, as a server that is away."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.break_off()

    def break_off(self) -> None:
        """Close every connection, and each that comes."""
        self.mode = CUT
        for device in list(self._open):
            with suppress(OSError):
                device.shutdown(socket.SHUT_RDWR)

    def _serve(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                device, _ = listening.accept()
                self._open.add(device)  # before the mode is looked at: `break_off` sees it, or it sees the mode
                if self.mode == CUT:
                    self.cut += 1
                    self._open.discard(device)
                    device.close()
                else:
                    threading.Thread(target=self._pass_on, args=(device,), daemon=True).start()

    def _pass_on(self, device: socket.socket) -> None:
        try:
            with suppress(OSError), device, socket.create_connection(("127.0.0.1", self.target)) as server:
                back = threading.Thread(target=self._copy, args=(server, device), daemon=True)
                back.start()
                self._copy(device, server)
                back.join()
        finally:
            self._open.discard(device)

    def _copy(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                while self.mode == STALL:
                    time.sleep(LOOK)
                self.passed += len(content) if to in self._open else 0
                to.sendall(content)
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

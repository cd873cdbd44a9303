"""What a server consists of, and how it is started, tended and ended.

superlink   Flower's server, on loopback
superexec   starts the ServerApp (the coordinator) when the SuperLink has a run
proxy       nginx: shows devices the SuperLink's fleet API, and nothing else
service     the forget service
page        the operator's page
tracker-…   follows the ledger, where there is --track
the run     of the coordinator: started again whenever there is none
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedquit.documents import Listener
from fedquit.errors import FedquitError, InputError
from fedquit.files import explained, write_whole
from fedquit.processes.supervisor import Part, Supervisor, line_of_part, listens, pause, reached_at
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.provision.check_methods import check_methods_apart
from fedquit.server.provision.deployment_files import nginx
from fedquit.server.serve.certificate_pair import on_renewal
from fedquit.server.serve.given_up_runs import Starts, serverapps
from fedquit.server.serve.superlink import Flower
from fedquit.server.serve.track_ledger import tracker_part

START_WITHIN = 180.0  # seconds for a part to be ready, on a small machine
LOOK_EVERY = 30.0  # seconds between two looks at the run
LIVE = ("pending", "starting", "running")


def parts(folder: Path, flower: Flower, *, proxy: bool, trackers: Sequence[str] = ()) -> list[Part]:
    """Return the parts of the server in `folder`, in the order to start them in; `trackers` follow it.

    Raises:
        InputError: the proxy is wanted, and nginx is not installed.
    """
    server, environment, python = flower.federation.server, flower.environment(), sys.executable
    devices = reached_at(server.bind)
    found = [
        Part("superlink", flower.superlink(), environment, server.superlink_port),
        Part("superexec", flower.superexec(), environment),
    ]
    if proxy:
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise InputError(
                "nginx is not installed: install it, or run a proxy of your own (there are configurations in "
                f"{folder / 'deploy'}) and give --no-proxy"
            )
        command = [program, "-c", str(folder / "proxy" / "nginx.conf"), "-e", "stderr"]
        found.append(Part("proxy", command, port=server.fleet_port, host=devices))
    service = [python, "-m", "fedquit.server.service", str(folder)]
    found.append(Part("service", service, port=server.forget_port, host=devices))
    page = [python, "-m", "fedquit.server.page", str(folder)]
    found.append(Part("page", page, port=server.page_port, host=reached_at(server.page_bind)))
    return [*found, *(tracker_part(folder, name) for name in trackers)]


class Run:
    """The coordinator's run: looked after every few seconds, started when there is none.

    Args:
        flower: where it runs.
        folder: of the server, whose ledger says which devices may take part.
        listener: called when a run is started, and why it could not be.
        look: called each time that `tend` is.
    """

    def __init__(
        self, flower: Flower, folder: Path, listener: Listener, look: Callable[[], None] = lambda: None
    ) -> None:
        self._flower, self._folder, self._listener, self._look = flower, folder, listener, look
        self._registered, self._shut_out = set[str](), set[str]()
        self._next, self._failures = 0.0, 0
        self._starts = Starts(folder, lambda: serverapps(flower.home))

    def begin(self) -> None:
        """End what an earlier server left running, so that the present config holds."""
        for run, status in self._flower.runs().items():
            if status.startswith(LIVE):
                self._flower.stop_run(run)

    def tend(self) -> None:
        """Let new devices in, shut revoked ones out, start the run if there is none; what fails is tried later."""
        self._look()
        if time.monotonic() < self._next or not listens(self._flower.federation.server.superlink_port):
            return  # a command to a SuperLink that is down would only keep it from being started again
        self._next = time.monotonic() + LOOK_EVERY
        try:
            self._register()
            if not any(status.startswith(LIVE) for status in self._flower.runs().values()):
                self._start()
            self._failures = 0
        except FedquitError as error:
            self._failures += 1
            self._next = time.monotonic() + max(LOOK_EVERY, pause(self._failures))
            self._listener({"event": "trouble", "reason": str(error)})

    def _start(self) -> None:
        """Start a run, unless the one before never came to work and gives a reason to wait."""
        wait = self._starts.given_up()
        if wait:
            self._next = time.monotonic() + wait
            self._listener({"event": "slow", "seconds": wait})
            return
        self._starts.begun()
        self._listener({"event": "run", "run": self._flower.start_run()})

    def _register(self) -> None:
        ledger = Ledger.open(self._flower.federation.ledger_url(self._folder), write=False)
        try:
            devices = [member for member in ledger.members() if member.role == "device"]
            void = set(ledger.revocations()) - self._shut_out
        finally:
            ledger.close()
        new = [m for m in devices if m.status != "revoked" and m.fingerprint not in self._registered]
        if void:
            self._flower.shut_out(void)
            self._shut_out |= void
        for reason in self._flower.register(new):
            self._listener({"event": "refused", "reason": reason})
        self._registered.update(member.fingerprint for member in new)


def make_server(
    folder: Path, *, proxy: bool, listener: Listener, trackers: Sequence[str] = ()
) -> tuple[Supervisor, Run]:
    """Return what keeps the server in `folder` alive, and its run.

    Raises:
        InputError: the folder is not a server's, or something it needs is missing.
        FedquitError: it runs already, or something else listens on its ports.
    """
    folder = folder.resolve()
    federation = Federation.read(folder)
    check_methods_apart(folder)
    check_files(folder)
    for name in ("logs", "proxy", "models", "flower"):
        with explained(folder):
            (folder / name).mkdir(exist_ok=True)
    write_whole(folder / "proxy" / "nginx.conf", nginx(federation, folder).encode())
    flower = Flower(folder, federation)
    flower.prepare()
    found = parts(folder, flower, proxy=proxy, trackers=trackers)
    supervisor = Supervisor(found, folder / "logs", listener)
    supervisor.clear()
    taken = [f"{part.port} ({part.name})" for part in found if part.port and listens(part.port, part.host)]
    if taken:
        raise FedquitError(f"ports are in use already: {', '.join(taken)}; is another server running?")

    def renewed() -> None:
        listener({"event": "renewed"})
        pid = supervisor.pids().get("proxy")
        if pid is not None:
            os.kill(pid, signal.SIGHUP)  # nginx reads its certificate again, and keeps the connections that it has

    return supervisor, Run(flower, folder, listener, on_renewal(folder, renewed))


def check_files(folder: Path, names: Sequence[str] = ("ca.crt", "server.pem", "server.key", "receipts.key")) -> None:
    """Refuse a folder in which a file of the server's is missing."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}; `fedquit provision` makes them")


def line_of(event: Mapping[str, Any]) -> str:
    """Return an event as a line for people.

    >>> line_of({"event": "run", "run": 7})
    'run 7: started'
    """
    if event["event"] == "refused":
        return f"device: {event['reason']}; the others take part"
    if event["event"] == "run":
        return f"run {event['run']}: started"
    if event["event"] == "tracker":
        return f"tracker {event['tracker']}: {event['reason'] or 'it follows again'}" + (
            "; the server continues, and sends the missed records later" if event["reason"] else ""
        )
    if event["event"] == "slow":
        return f"run: ended before it came to work; the next one in {event['seconds']:.0f} s; see superexec.log"
    if event["event"] == "renewed":
        return "certificate: renewed; proxy, service and page show it now, the SuperLink from its next start"
    if event["event"] == "trouble":
        return f"run: {event['reason']}; it will be tried again"
    return line_of_part(event)

"""The page's routes: HTML for people, JSON under /api for programs, /metrics for Prometheus, /healthz.

It is read-only. It answers to its own names alone, and beyond loopback to who has its token: see `access`.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path as Folder
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.exceptions import HTTPException as AnyHTTPException

from fedquit import __version__
from fedquit.documents import Document
from fedquit.errors import FedquitError, InputError
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.page import api_documents, ledger_view
from fedquit.server.page.access import COOKIE, Access
from fedquit.server.page.certificate_ends import certificate_ends, ending_soon
from fedquit.server.page.health import troubles, unreadable
from fedquit.server.page.metrics import metrics as figures
from fedquit.server.page.sentences import moment
from fedquit.server.page.watch_metrics import watch_metrics
from fedquit.server.serve.last_look import read_seen

POLICY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
NEWEST = 200
"""The number of requests, and of steps, that a page lists."""
Found = TypeVar("Found")
UNITS = ("B", "kB", "MB", "GB", "TB")
Id = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="id of a request")]
After = Annotated[int, Query(ge=0, le=2**31 - 1, description="steps after this one")]
Limit = Annotated[int, Query(ge=1, le=1000)]
Responses = dict[int | str, dict[str, Any]]
MISSING: Responses = {404: {"model": api_documents.Trouble, "description": "There is no such thing"}}
TROUBLE: Responses = {
    401: {"model": api_documents.Trouble, "description": "The page wants its token"},
    421: {"model": api_documents.Trouble, "description": "The page does not answer to this name"},
    503: {"model": api_documents.Trouble, "description": "The ledger cannot be read"},
}
RECEIPT: Responses = {200: {"description": "DSSE envelope; see docs/receipts.md", "content": {"application/json": {}}}}
FIGURES: Responses = {
    200: {"description": "Text exposition format", "content": {"text/plain": {}}},
    503: {
        "description": "The ledger cannot be read",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Trouble"}}},
    },
}
UNWELL: Responses = {
    503: {
        "model": api_documents.Health,
        "description": "Something keeps the server from working",
    }
}
LOGIN = "/login"
WANTED = (
    "the token is in the file page.token of the server's folder: open /login?token=TOKEN, or send it as Bearer TOKEN"
)
OTHER_HOST = "this page does not answer to that name; [server] page-hosts in server.toml names those that it does"
PROGRAMS = ("/api/", "/metrics", "/healthz", "/openapi.json")
"""Paths that answer programs: trouble is JSON there, and as a page elsewhere."""


def make_page(
    folder: Folder,
    federation: Federation,
    *,
    access: Access = Access(),  # noqa: B008 - frozen
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """Return the page of the server in `folder`, for whom `access` lets in."""
    title = f"fedquit: {federation.name}"
    page = FastAPI(title=title, version=__version__, docs_url=None, redoc_url=None, responses=TROUBLE)
    html = Environment(loader=PackageLoader("fedquit.server.page"), autoescape=select_autoescape(default=True))
    html.filters |= {"when": when, "moment": moment, "span": span, "size": size, "short": lambda text: text[:12]}

    def ledger() -> Iterator[Ledger]:
        opened = Ledger.open(federation.ledger_url(folder), write=False)
        try:
            yield opened
        finally:
            opened.close()

    Opened = Annotated[Ledger, Depends(ledger)]  # noqa: N806 - a type

    def shown(name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        values |= {"federation": federation, "now": clock(), "here": name}
        return HTMLResponse(html.get_template(f"{name}.html").render(values), status_code=status)

    def found(read: Callable[[str], Found], request_id: str) -> Found:
        try:
            return read(request_id)
        except InputError:
            raise HTTPException(404, "there is no such request") from None

    def overview(opened: Ledger) -> Document:
        now = clock()
        expiring = ending_soon(certificate_ends(folder), now)
        return {**ledger_view.overview(opened, federation, now), "expiring": expiring}

    def all_facts(opened: Ledger, newest: int | None = None) -> list[Document]:
        names, now = ledger_view.names_of(opened, opened.members()), clock()
        lines = opened.request_lines(newest=newest)
        return [
            ledger_view.request_facts(line, federation, names, now, ledger_view.uncharged(opened, line))
            for line in lines
        ]

    def one_of(opened: Ledger, request_id: str) -> Document:
        request, names = found(opened.request_line, request_id), ledger_view.names_of(opened, opened.members())
        more = ledger_view.uncharged(opened, request)
        facts = ledger_view.request_facts(request, federation, names, clock(), more)
        return {**facts, "events": ledger_view.timeline(opened, request, names)}

    @page.middleware("http")
    async def careful(request: Request, call_next: Any) -> Response:
        response: Response = _refusal(access, request, shown) or await call_next(request)
        response.headers.update(POLICY)
        return response

    @page.exception_handler(FedquitError)
    async def trouble(request: Request, error: FedquitError) -> Response:
        if request.url.path.startswith(PROGRAMS):
            return JSONResponse({"detail": str(error)}, status_code=503)
        why = "; ".join(unreadable(folder, error))
        return shown("trouble", status=503, what="The ledger cannot be read", why=why)

    @page.exception_handler(AnyHTTPException)
    async def refused(request: Request, error: AnyHTTPException) -> Response:
        if request.url.path.startswith(PROGRAMS):
            return await http_exception_handler(request, error)
        return shown("trouble", status=error.status_code, what=str(error.detail), why="")

    @page.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        if request.url.path.startswith(PROGRAMS):
            return await request_validation_exception_handler(request, error)
        return shown("trouble", status=404, what="there is no such request", why="an id has 64 hex digits")

    @page.get(LOGIN, include_in_schema=False)
    def login(token: str = "") -> Response:
        if not access.is_token(token):
            raise HTTPException(401, WANTED)
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(COOKIE, token, secure=True, httponly=True, samesite="lax", path="/")
        return response

    @page.get("/", response_class=HTMLResponse, include_in_schema=False)
    def first(opened: Opened) -> HTMLResponse:
        found, disk = troubles(opened, federation, folder, clock()), shutil.disk_usage(folder)
        return shown("overview", facts=overview(opened), troubles=found, seen=read_seen(folder), disk=disk)

    @page.get("/requests", response_class=HTMLResponse, include_in_schema=False)
    def all_requests(opened: Opened) -> HTMLResponse:
        return shown("requests", facts=all_facts(opened, NEWEST)[::-1], most=NEWEST)

    @page.get("/requests/{request_id}", response_class=HTMLResponse, include_in_schema=False)
    def one_request(request_id: Id, opened: Opened) -> HTMLResponse:
        facts, steps = one_of(opened, request_id), opened.steps(request=request_id)
        spent = ledger_view.spent(steps) if steps else None
        return shown("request", facts=facts, steps=[ledger_view.step_facts(step) for step in steps], spent=spent)

    @page.get("/rounds", response_class=HTMLResponse, include_in_schema=False)
    def rounds(opened: Opened) -> HTMLResponse:
        steps = [ledger_view.step_facts(step) for step in opened.newest_steps(NEWEST)[::-1]]
        return shown("rounds", steps=steps, costs=ledger_view.costs(opened), most=NEWEST)

    @page.get("/api/overview", response_model=api_documents.Overview)
    def api_overview(opened: Opened) -> dict[str, Any]:
        """Say who takes part, where training is, and which requests are open."""
        return overview(opened)

    @page.get("/api/requests", response_model=list[api_documents.RequestDocument])
    def api_requests(opened: Opened) -> list[dict[str, Any]]:
        """List every request, oldest first."""
        return all_facts(opened)

    @page.get("/api/requests/{request_id}", response_model=api_documents.OneRequest, responses=MISSING)
    def api_request(request_id: Id, opened: Opened) -> dict[str, Any]:
        """Show a request with its events."""
        return one_of(opened, request_id)

    @page.get("/api/requests/{request_id}/receipt", response_class=Response, responses=MISSING | RECEIPT)
    def api_receipt(request_id: Id, opened: Opened) -> Response:
        """Hand out the signed receipt of a request that is done, byte for byte."""
        receipt = found(opened.request, request_id).receipt
        if receipt is None:
            raise HTTPException(404, "there is no receipt yet")
        name = {"Content-Disposition": f'attachment; filename="receipt-{request_id[:12]}.json"'}
        return Response(receipt, media_type="application/json", headers=name)

    @page.get("/api/steps", response_model=list[api_documents.StepDocument])
    def api_steps(opened: Opened, after: After = 0, limit: Limit = 100) -> list[dict[str, Any]]:
        """List the steps of training, forgetting and recovery, oldest first."""
        return [ledger_view.step_facts(step) for step in opened.steps(after=after, limit=limit)]

    @page.get("/metrics", response_class=PlainTextResponse, responses=FIGURES)
    def metrics(opened: Opened) -> PlainTextResponse:
        """Return the figures for Prometheus."""
        return PlainTextResponse(
            figures(opened, federation, clock(), certificate_ends(folder))
            + watch_metrics(opened, federation, folder, clock()),
            media_type="text/plain; version=0.0.4",
        )

    @page.get("/healthz", response_model=api_documents.Health, responses=UNWELL)
    def healthz(response: Response) -> dict[str, Any]:
        """Say whether the server can work, or what keeps it from that, and whether training waits for devices."""
        waiting = ""
        try:
            with contextlib.contextmanager(ledger)() as opened:
                found = troubles(opened, federation, folder, clock())
                waiting = ledger_view.waits_for(opened.members(), federation)
        except FedquitError as error:
            found = unreadable(folder, error)
        response.status_code = 503 if found else 200
        status = "trouble" if found else "ok"
        return {"status": status, "federation": federation.name, "waiting": waiting, "troubles": found}

    return page


def _refusal(access: Access, request: Request, shown: Callable[..., HTMLResponse]) -> Response | None:
    """Return why a call is not answered, or None: it is."""
    program = request.url.path.startswith(PROGRAMS)
    if not access.answers_to(request.headers.get("host", "")):
        status, why, headers = 421, OTHER_HOST, dict[str, str]()
    elif request.url.path != LOGIN and not access.lets_in(request.headers.get("authorization", ""), request.cookies):
        status, why, headers = 401, WANTED, {"WWW-Authenticate": "Bearer"}
    else:
        return None
    if program or status == 421:
        return JSONResponse({"detail": why}, status_code=status, headers=headers)
    response = shown("trouble", status=status, what="This page wants its token", why=why)
    response.headers.update(headers)
    return response


def when(seconds: float) -> str:
    """Return a moment for people.

    >>> when(0)
    '1970-01-01 00:00:00 UTC'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def span(seconds: float) -> str:
    """Return a length of time in its two largest units.

    >>> span(2 * 86400 + 3 * 3600 + 5), span(-90), span(4)
    ('2 d 3 h', '-1 min 30 s', '4 s')
    """
    left, parts = abs(int(seconds)), list[str]()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return ("-" if seconds <= -1 else "") + " ".join(parts[:2])


def size(num_bytes: float) -> str:
    """Return a number of bytes for people, in powers of 1000.

    >>> size(999), size(1_500_000)
    ('999 B', '1.5 MB')
    """
    power = next((power for power in range(4) if num_bytes < 1000 ** (power + 1)), 4)
    return f"{num_bytes:.0f} B" if power == 0 else f"{num_bytes / 1000**power:.1f} {UNITS[power]}"

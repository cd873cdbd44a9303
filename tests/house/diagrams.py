"""Draw the diagrams of the documents as SVG: `make diagrams`. A test holds that docs/images has what this draws.

They need no font and no script from elsewhere, and read on a light and on a dark page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images"
BLUE, RED, GREEN, GREY = "#2563a8", "#c0392b", "#2e8b57", "#6b7780"
LINE = 15


@dataclass(frozen=True)
class Box:
    """A box with lines of text; the first is bold."""

    x: int
    y: int
    width: int
    text: str
    colour: str = BLUE

    @property
    def height(self) -> int:
        """Room for its lines."""
        return 16 + LINE * (self.text.count("\n") + 1)

    def at(self, side: str) -> tuple[float, float]:
        """Return the middle of a side: "n", "e", "s" or "w"."""
        dx, dy = {"n": (0.5, 0.0), "e": (1.0, 0.5), "s": (0.5, 1.0), "w": (0.0, 0.5)}[side]
        return self.x + dx * self.width, self.y + dy * self.height

    def svg(self) -> str:
        """Return its rectangle and its text."""
        lines = [
            f'<text x="{self.x + self.width / 2:g}" y="{self.y + 20 + LINE * i}" text-anchor="middle" '
            f'font-weight="{"normal" if i else "bold"}">{escape(line)}</text>'
            for i, line in enumerate(self.text.split("\n"))
        ]
        return (
            f'<rect x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="6" fill="white" '
            f'stroke="{self.colour}" stroke-width="1.5"/>' + "".join(lines)
        )


def arrow(start: tuple[float, float], end: tuple[float, float], label: str = "", colour: str = GREY) -> str:
    """Return a line with a point at its end, and a label above its middle."""
    (a, b), (c, d) = start, end
    shown = (
        f'<text x="{(a + c) / 2:g}" y="{(b + d) / 2 - 6:g}" text-anchor="middle" fill="{colour}">{escape(label)}</text>'
    )
    line = (
        f'<line x1="{a:g}" y1="{b:g}" x2="{c:g}" y2="{d:g}" stroke="{colour}" stroke-width="1.5" marker-end="url(#p)"/>'
    )
    return line + (shown if label else "")


def note(x: int, y: int, text: str, colour: str = GREY) -> str:
    """Return a line of text."""
    return f'<text x="{x}" y="{y}" fill="{colour}">{escape(text)}</text>'


def drawing(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """Return a whole SVG."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
        '<defs><marker id="p" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{GREY}"/></marker></defs>'
        f'<rect width="{width}" height="{height}" rx="8" fill="#f6f8fa"/>' + "".join(parts) + "</svg>\n"
    )


def idea() -> str:
    """Return the picture of the idea: train, ask, distil, repair, compare."""
    train = Box(20, 40, 150, "Train\ndevices and server,\nround after round")
    ask = Box(205, 40, 160, "Ask\na device signs:\nforget my data", RED)
    distil = Box(400, 40, 180, "Forget\nit imitates a virtual teacher:\nits class pushed down", RED)
    recover = Box(615, 40, 165, "Recover\nthe other devices repair\nthe model", GREEN)
    never = Box(205, 165, 375, "Retrained models\nthat never saw the data: the target, not accuracy 0", GREY)
    verdict = Box(615, 165, 165, "Verdict, receipt\ncan one tell them apart?\nsigned, checked offline")
    chain = [train, ask, distil, recover]
    arrows = [arrow(a.at("e"), b.at("w")) for a, b in pairwise(chain)]
    arrows += [arrow(never.at("e"), verdict.at("w")), arrow(recover.at("s"), verdict.at("n"))]
    boxes = [box.svg() for box in (*chain, never, verdict)]
    return drawing(800, 245, "Train, ask, forget, recover, compare", [*arrows, *boxes])


def request() -> str:
    """Return the life of a request, from the device's ask to the receipt."""
    device = Box(20, 45, 190, "Device: fedquit forget\nmarks the samples, signs\nthe ask, stores it, sends it", RED)
    service = Box(305, 45, 190, "Server: forget service\nchecks key, time, quota;\nasked, in the ledger")
    boundary = Box(590, 45, 190, "Coordinator\nbetween two rounds:\nforgetting")
    unlearn = Box(20, 165, 190, "Device\nretires the samples on disk,\nunlearns, stores its reply", RED)
    guard = Box(305, 165, 190, "Guard\nform, length, direction,\naccuracy: adopt or refuse")
    fallback = Box(590, 165, 190, "Fallback\nthe next method, such as\nretrain; or failed", GREY)
    recover = Box(20, 285, 190, "Other devices\nrecover: until accuracy\nis back", GREEN)
    purge = Box(305, 285, 190, "Server\nremoves models that\ncontained the data")
    done = Box(590, 285, 190, "done, unrecovered\na signed receipt;\nfedquit verify, offline", GREEN)
    arrows = [
        arrow(device.at("e"), service.at("w"), "the ask"),
        arrow(service.at("e"), boundary.at("w")),
        arrow((685, 108), (210, 178)),
        arrow(unlearn.at("e"), guard.at("w"), "its model"),
        arrow(guard.at("e"), fallback.at("w"), "refused"),
        arrow((400, 226), (210, 300)),
        note(320, 262, "adopted"),
        arrow(recover.at("e"), purge.at("w")),
        arrow(purge.at("e"), done.at("w")),
    ]
    boxes = (device, service, boundary, unlearn, guard, fallback, recover, purge, done)
    return drawing(800, 365, "The life of a request", [*arrows, *(box.svg() for box in boxes)])


def receipt() -> str:
    """Return what a receipt contains and points at."""
    ask = Box(20, 40, 200, "The ask\nsigned by the device's key;\nSHA-256 of it: the id", RED)
    models = Box(20, 125, 200, "Model files\nSHA-256 before, unlearned,\nafter; removed and kept")
    log = Box(20, 210, 200, "Head of the audit log\nnumber and digest of\nthe last event", GREY)
    whole = Box(310, 118, 190, "Receipt\nsigned by the federation:\none form, no byte changes", GREEN)
    verify = Box(590, 75, 190, "fedquit verify\nboth signatures; receipt\nand ask agree; --model")
    check = Box(590, 175, 190, "fedquit ledger check\n--receipt: is the event\nstill in the log?", GREY)
    arrows = [arrow(each.at("e"), whole.at("w")) for each in (ask, models, log)]
    arrows += [arrow(whole.at("e"), each.at("w")) for each in (verify, check)]
    names = ("n-4", "n-3", "n-2", "n-1", "n")
    events = [
        Box(20 + 195 * i, 320, 165, f"Event {name}\ndigest of {name} contains\nthat of {names[i]}", GREY)
        for i, name in enumerate(names[1:])
    ]
    arrows += [arrow(b.at("w"), a.at("e")) for a, b in pairwise(events)]
    arrows.append(arrow(log.at("s"), (120, 300)))
    parts = [*arrows, *(box.svg() for box in (ask, models, log, whole, verify, check, *events))]
    return drawing(
        800, 400, "What a receipt rests on", [*parts, note(130, 300, "the log: each event names the one before")]
    )


def deferred() -> str:
    """Return who gets which model, adopted directly and deferred."""
    parts = [note(20, 28, "adopt = direct", BLUE), note(20, 208, "adopt = deferred", BLUE)]
    for y, is_deferred in ((40, False), (220, True)):
        before = Box(20, y, 170, "Model before g\nall devices have it")
        step = Box(20, y + 75, 170, "Unlearned model f\nfrom the asking device", RED)
        sent = (
            "g: trained on by the\nother devices to r" if is_deferred else "f: every device of\nthe first round gets it"
        )
        first = Box(300, y, 190, "First round of recovery\n" + sent, GREEN)
        result = "r + (f - g)\nonly this sum is sent out" if is_deferred else "r\nf - g is known to all"
        after = Box(600, y + 45, 180, "Next model\n" + result, GREEN if is_deferred else RED)
        start = before if is_deferred else step
        parts += [arrow(start.at("e"), first.at("w")), arrow(first.at("e"), after.at("w"))]
        if is_deferred:
            parts.append(arrow(step.at("e"), (600, y + 98), "the server keeps f, and adds its step", RED))
        parts += [box.svg() for box in (before, step, first, after)]
    return drawing(800, 375, "Direct and deferred adoption", parts)


DIAGRAMS: dict[str, Callable[[], str]] = {
    "idea.svg": idea,
    "request.svg": request,
    "receipt.svg": receipt,
    "deferred.svg": deferred,
}


def main() -> None:
    """Draw them all."""
    for name, draw in DIAGRAMS.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()

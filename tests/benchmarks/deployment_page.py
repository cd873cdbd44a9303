"""The figures of a deployment as lines of a document, which they replace between two marks."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedquit.errors import InputError

TIMES = ("poll", "device", "server")
BEGIN = "<!-- figures of tests.benchmarks.deployment: --write replaces them -->"
END = "<!-- end of the figures -->"
UNSEEN = (
    "A message whose reply was there and taken between two looks at the SuperLink's database, five a second, is not "
    "seen; its seconds stand at the server, in the row before."
)


def page_of(found: Mapping[str, Any], command: str) -> list[str]:
    """Return the figures as lines of a document, with the command that made them."""
    lines = [
        f"`{command}`, {found['date']}, {found['cores']} cores at a load of {found['load_before']} to "
        f"{found['load_after']}, fedquit {found['fedquit']}, flwr {found['flwr']}, torch {found['torch']}, "
        f"Python {found['python']}: **{found['median_seconds']} s from the ask to the receipt** (median of "
        f"{len(found['asks'])}; {found['devices']} devices, "
        f"{'with' if found['trusted'] else 'without'} a validation set).",
        "",
        "| where the seconds go, mean of an ask | exchanges | until fetched | until replied | at the server |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind, row in found["profile"].items():
        times = (f"{row[name]:.1f} s" if row["exchanges"] or name == "server" else "" for name in TIMES)
        lines.append(f"| {kind} | {row['exchanges']:.1f} | {' | '.join(times)} |")
    lines += ["", UNSEEN, "", "| memory of each part, idle | processes | PSS | RSS |", "|---|---:|---:|---:|"]
    parts = dict[str, list[Mapping[str, Any]]]()
    for memory in found["memory"]:
        parts.setdefault(str(memory["name"]), []).append(memory)
    for name, each in sorted(parts.items()):
        pss, rss = (sum(float(memory[key]) for memory in each) / len(each) for key in ("pss_mb", "rss_mb"))
        lines.append(f"| {name} | {len(each)} | {pss:.0f} MB | {rss:.0f} MB |")
    for what, name in (("a server without the model's process", "server_without_model"), ("a device", "device")):
        private, files = found[name]["private_mb"], found[name]["files_mb"]
        lines.append(f"| {what}, all of it | | {private:.0f} MB private | {files:.0f} MB of files |")
    return lines


def replaced(text: str, lines: Sequence[str]) -> str:
    """Return a document with these lines between its two marks.

    Raises:
        InputError: it does not have them.

    >>> replaced("a\\n" + BEGIN + "\\nold\\n" + END + "\\nb", ["new"]).splitlines()[2]
    'new'
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"the document has no marks {BEGIN} and {END}")
    return "\n".join([before + begin, *lines, end + after])

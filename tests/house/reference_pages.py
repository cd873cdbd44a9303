"""Write the reference pages from their sources: `make reference`. A test holds that they agree.

docs/settings.md from the settings' classes, docs/grpc.md from the .proto, docs/ledger_tables.md from the tables,
docs/reference_rooms.md from what packages export.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fedquit.server.ledger.storage.tables import metadata
from fedquit.settings import GROUPS, Group, Settings, marks
from tests.house.public_names import API, documented, packages, resolve

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "client" / "requests" / "proto" / "forget.proto"
TABLES = ROOT / "server" / "ledger" / "storage" / "tables.py"
MADE = "<!-- Made by `make reference`: change its source, not this page. -->\n"


def settings_page() -> str:
    """Return a table of the settings of each group."""
    lines = [
        "# Settings",
        "",
        MADE,
        "Every setting of a run. Each can be given as a flag (`--lr 0.1`), in a TOML file (`lr = 0.1`), in Python "
        "(`simulate(lr=0.1)`, with underscores), and in Flower's run config. The last column says where a deployment "
        "gives it in `server.toml`; a dash: only in simulations.",
    ]
    for group in GROUPS:
        lines += [
            "",
            f"## {group.__name__}",
            "",
            "| setting | default | what it is | server.toml |",
            "|---|---|---|---|",
        ]
        lines += [_setting(group, name) for name in group.model_fields]
    return _page(lines)


def _setting(group: type[Group], name: str) -> str:
    field, key = group.model_fields[name], name.replace("_", "-")
    default = Settings().run_config()[key]
    about = " ".join(str(field.description).split())
    scope = marks(group, name)[1].value
    limits = _limits(field)
    shown = f"`{str(default).lower() if isinstance(default, bool) else default}`" if default != "" else ""
    where = f"`{scope}`" if scope.startswith("[") else "–"
    return f"| `{key}` | {shown} | {_cell(about + (f' ({limits})' if limits else ''))} | {where} |"


def _limits(field: Any) -> str:
    """Return the range of a number, or the choices."""
    choices = getattr(field.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(f"`{choice}`" for choice in choices)
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [(words[name], getattr(limit, name)) for limit in field.metadata for name in words if hasattr(limit, name)]
    return ", ".join(f"{word} {value:g}" for word, value in found)


def grpc_page() -> str:
    """Return the calls and messages of the forget service, with the comments of the .proto."""
    text = PROTO.read_text(encoding="utf-8")
    head = _comment(text.partition("syntax")[0])
    (package,) = re.findall(r"^package ([\w.]+);", text, re.MULTILINE)
    lines = ["# The forget service (gRPC)", "", MADE, head, ""]
    lines += [f"Package `{package}`. What is proven by whom is in [asking.md](asking.md).", "", "## Calls", ""]
    lines += ["| call | takes | gives | what it does |", "|---|---|---|---|"]
    for about, name, takes, gives in re.findall(
        r"((?:^ *//.*\n)+) *rpc (\w+)\((\w+)\) returns \(([\w ]+)\);", text, re.MULTILINE
    ):
        lines.append(f"| `{name}` | {_message(takes)} | {_message(gives)} | {_cell(_comment(about))} |")
    for about, name, body in re.findall(r"((?:^//.*\n)*)^message (\w+) \{\n((?:.*\n)*?)\}", text, re.MULTILINE):
        lines += ["", f"## {name}", ""] + ([_comment(about), ""] if about else [])
        lines += ["| field | type | number | what it is |", "|---|---|---|---|"]
        for kind, field, number, comment in re.findall(
            r"^ *((?:repeated )?\w+) (\w+) = (\d+); *(?://(.*))?$", body, re.M
        ):
            lines.append(f"| `{field}` | {_message(kind)} | {number} | {_cell(comment.strip())} |")
    return _page(lines)


def _message(kind: str) -> str:
    """Link a message; other types are as they are."""
    *before, name = kind.split()
    return " ".join([*before, f"[{name}](#{name.lower()})" if name[0].isupper() else name])


def _comment(text: str) -> str:
    return " ".join(filter(None, re.findall(r"// ?(.*)", text)))


def tables_page() -> str:
    """Return the columns of each table of the ledger."""
    lines = [
        "# Tables of the ledger",
        "",
        MADE,
        "The columns of each table, in SQLite and PostgreSQL alike. What a table is for, and when a row is written, is "
        "in [ledger.md](ledger.md#tables). Times are Unix seconds, digests hexadecimal SHA-256.",
    ]
    written = re.split(r"= Table\(", TABLES.read_text(encoding="utf-8"))[1:]
    remarks = {
        re.findall(r'"(\w+)"', text)[0]: dict(re.findall(r'Column\("(\w+)".*\),? +# (.*)$', text, re.MULTILINE))
        for text in written
    }
    for table in metadata.tables.values():
        lines += ["", f"## {table.name}", "", "| column | type | key | remark |", "|---|---|---|---|"]
        for column in table.columns:
            keys = ["primary"] * column.primary_key + ["unique"] * bool(column.unique)
            keys += [f"of `{key.target_fullname}`" for key in column.foreign_keys]
            kind = type(column.type).__name__.lower() + ("" if not column.nullable else ", may be null")
            lines.append(
                f"| `{column.name}` | {kind} | {', '.join(keys)} | {_cell(remarks[table.name].get(column.name, ''))} |"
            )
    return _page(lines)


def rooms_page() -> str:
    """Return what packages export and the page of the public API does not show."""
    lines = [
        "# Other Python packages",
        "",
        MADE,
        "What fedquit's packages export for each other, besides [the public API](reference.md). CONTRIBUTING.md says "
        "what each folder is for. These names are documented, but may change without notice.",
    ]
    shown = {id(resolve(path)) for path in documented(API)}
    for package, names in packages().items():
        left = [name for name in names if id(resolve(f"{package}.{name}")) not in shown]
        shown |= {id(resolve(f"{package}.{name}")) for name in left}
        if left:
            lines += ["", f"## {package}", "", *(f"::: {package}.{name}" for name in left)]
    return _page(lines)


def _page(lines: Iterable[str]) -> str:
    """Return the lines of a page, its paragraphs wrapped."""
    whole = ("|", "#", ":", "<")
    return "\n".join(line if line.startswith(whole) else textwrap.fill(line, 120) for line in lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {
    "docs/settings.md": settings_page,
    "docs/grpc.md": grpc_page,
    "docs/ledger_tables.md": tables_page,
    "docs/reference_rooms.md": rooms_page,
}


def pages() -> Iterator[tuple[Path, str]]:
    """Return each page's file and its text."""
    yield from ((ROOT / name, made()) for name, made in PAGES.items())


def main() -> None:
    """Write them all."""
    for path, text in pages():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""report.html: a comparison on one page, with tables to sort and the figures in it. It loads nothing from anywhere."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from fedquit.documents import Document
from fedquit.simulations.compare.cells.repeat_command import repeat_command
from fedquit.simulations.compare.config.comparison_config import Comparison
from fedquit.simulations.compare.report.columns import Column, columns_of
from fedquit.simulations.compare.report.describe_comparison import how_to_read, name_target, what_was_compared
from fedquit.simulations.compare.report.page_assets import SCRIPT, STYLE
from fedquit.simulations.compare.report.paired_table import PAIRED, paired_caption, paired_rows
from fedquit.simulations.compare.results.results_document import note_of_rule
from fedquit.simulations.compare.results.row_statistics import aggregate

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def make_page(comparison: Comparison, document: Document, figures: Mapping[Path, str]) -> str:
    """Return the page as HTML.

    Args:
        comparison: what was compared.
        document: its results; of a summary, the single runs have no numbers.
        figures: what each file shows.
    """
    rows = [*document["rows"], document["reference"]]
    targets = [tuple(target) for target in document["targets"]]
    columns = columns_of(rows)
    body = [
        f"<h1>{escape(comparison.title)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in what_was_compared(comparison, targets)),
        *_section("Methods", _rows_table(rows, columns), how_to_read(comparison)),
        _meanings(columns),
        _note_of_rule(document),
        *(_section("Paired differences", _paired_table(document), _paired_caption(document))),
        *(_section("Figures", "".join(_figure(*shown) for shown in figures.items()), "")),
        *_section("Runs", _runs_table(comparison, document), "Each line is one method on one request and seed. Its "
                  "command trains from the start and, on the same machine with the same versions, gives the same "
                  "numbers, except for seconds."),
        _made_with(document["versions"]),
    ]  # fmt: skip
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(comparison.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(heading: str, content: str, caption: str) -> list[str]:
    """Return a part of the page; nothing where it has no content."""
    return [f"<h2>{heading}</h2>", f"<p>{escape(caption)}</p>" if caption else "", content] if content else []


def _rows_table(rows: Sequence[Document], columns: Sequence[Column]) -> str:
    cells = [[row["name"], *(column.shown(row) for column in columns)] for row in rows]
    return _table(["method", *(column.heading for column in columns)], [list(map(escape, line)) for line in cells])


def _meanings(columns: Iterable[Column]) -> str:
    items = "".join(f"<li><b>{escape(each.heading)}</b>: {escape(each.meaning)}</li>" for each in columns)
    return f"<ul>{items}</ul>"


def _note_of_rule(document: Document) -> str:
    note = note_of_rule(document)
    return f"<p>{escape(note.replace('`', ''))}</p>" if note else ""


def _paired_table(document: Document) -> str:
    rows = paired_rows(document)
    return _table(PAIRED, [list(map(escape, row)) for row in rows]) if rows else ""


def _paired_caption(document: Document) -> str:
    return f"{paired_caption(document, str).replace('**', '')}." if document.get("paired") else ""


def _figure(file: Path, title: str) -> str:
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{b64encode(file.read_bytes()).decode()}">'


def _runs_table(comparison: Comparison, document: Document) -> str:
    """Return each run with its command, and its numbers where the document has them."""
    measured = {(cell["row"], tuple(cell["target"]), cell["seed"]): cell for cell in document.get("cells", [])}
    runs = [
        (row, tuple(target), seed) for row in comparison.rows for seed in comparison.seeds
        for target in document["targets"]
    ]  # fmt: skip
    found = {(row.name, target, seed): measured.get((row.name, target, seed)) for row, target, seed in runs}
    single = {key: aggregate(key[0], [cell]) for key, cell in found.items() if cell}
    columns = columns_of(list(single.values()))
    lines = []
    for row, target, seed in runs:
        key = (row.name, target, seed)
        numbers = [column.shown(single[key]) if key in single else "" for column in columns]
        about = [row.name, name_target(comparison.granularity, target), str(seed), *numbers]
        command = escape(repeat_command(comparison, row, seed, target))
        lines.append([*map(escape, about), f"<details><summary>show</summary><code>{command}</code></details>"])
    return _table(["method", "forgotten", "seed", *(column.heading for column in columns), "command"], lines)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table that sorts by a column when its heading is pressed; cells are HTML."""
    head = "".join(f'<th scope="col"><button type="button">{escape(each)}</button></th>' for each in headings)
    body = "\n".join(
        "<tr>" + f'<th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _made_with(versions: Mapping[str, str]) -> str:
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"<p>Made with {escape(named)}.</p>" if named else ""

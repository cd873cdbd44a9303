"""The files of a report: summary.json, and the report, figures and page that are made from it, now or later."""

from pathlib import Path

from fedquit.documents import Document
from fedquit.errors import InputError
from fedquit.files import explained, read_json, write_json, write_whole
from fedquit.simulations.compare.config.comparison_config import Comparison
from fedquit.simulations.compare.config.read_config import make_comparison
from fedquit.simulations.compare.report.comparison_figures import draw_all
from fedquit.simulations.compare.report.comparison_page import make_page
from fedquit.simulations.compare.report.comparison_report import make_report
from fedquit.simulations.compare.results.results_document import SCHEMA_VERSION, summary_of

SUMMARY, REPORT, PAGE = "summary.json", "report.md", "report.html"


def write_report(folder: Path, comparison: Comparison, document: Document) -> None:
    """Write the summary of a comparison's results, its figures, its report and its page into a folder.

    Args:
        folder: where to.
        comparison: what was compared.
        document: its results, or their summary: then the page has the commands of the single runs, and no numbers.

    Raises:
        FedquitError: a file cannot be written.
    """
    summary = summary_of(document)
    figures = draw_all(folder, summary)
    write_json(folder / SUMMARY, summary)
    write_whole(folder / REPORT, make_report(comparison, summary, figures).encode())
    drawn = {folder / name: title for name, title in figures.items()}
    write_whole(folder / PAGE, make_page(comparison, document, drawn).encode())


def rewrite_report(file: Path, *, out: Path | None = None, overwrite: bool = False) -> Path:
    """Make report and figures again from a summary; return their folder.

    Args:
        file: the summary.json of a comparison, or its compare.json.
        out: the folder; that of `file` if None.
        overwrite: replace the report that is there.

    Raises:
        InputError: `file` is no summary, or `out` has a report that may not be replaced.
        FedquitError: a file cannot be written.
    """
    folder = out or file.parent
    comparison, document = read_results_file(file)
    if (folder / REPORT).exists() and not overwrite:
        raise InputError(f"{folder / REPORT} exists; replace it with --overwrite, or give another --out")
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        write_report(folder, comparison, document)
    except InputError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{file} is not the summary of a comparison: {error!r}") from error
    return folder


def read_results_file(file: Path) -> tuple[Comparison, Document]:
    """Return the comparison that results or their summary are of, and the document.

    Raises:
        InputError: it cannot be read, or is none.
    """
    document = read_json(file, "a comparison's summary")
    if not isinstance(document, dict) or not {"file", "source", "rows", "reference"} <= document.keys():
        raise InputError(
            f"{file} is not the summary of a comparison: give the summary.json that `fedquit compare` wrote"
        )
    if document.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{file}: schema_version must be {SCHEMA_VERSION}, got {document.get('schema_version')!r}")
    return make_comparison(document["file"], str(document["source"])), document

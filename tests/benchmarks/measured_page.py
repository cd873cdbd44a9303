"""The command of a benchmark that measures into a folder, resumes there, and writes a JSON and a page from it."""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fedquit.documents import Document
from fedquit.files import write_json


def write_results(
    about: str | None,
    *,
    json_file: Path,
    page: Path,
    make_results: Callable[..., Document],
    make_page: Callable[[Document], str],
    resumable: bool = True,
) -> Document:
    """Read the command line, measure what is missing if it says so, write both files, and return the document.

    Args:
        about: what to say of the command: a module's docstring, of which the first line is shown.
        json_file: where the document goes, and is read from.
        page: where the page goes.
        make_results: from the folder of what is measured so far, and `only_measured` if `resumable`, to the document.
        make_page: from the document to the page.
        resumable: whether `make_results` can leave out what is not measured yet.
    """
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder for what is measured so far")
    if resumable:
        parser.add_argument("--measured", action="store_true", help="measure nothing more: take what is in --work")
    parser.add_argument("--page", action="store_true", help="only make the page from the JSON that is there")
    given = parser.parse_args()
    if not given.page:
        if not given.work:
            parser.error("give --work DIR, or --page")
        given.work.mkdir(parents=True, exist_ok=True)
        make = partial(make_results, only_measured=given.measured) if resumable else make_results
        write_json(json_file, make(given.work))
    document: Document = json.loads(json_file.read_text(encoding="utf-8"))
    page.write_text(make_page(document), encoding="utf-8")
    return document

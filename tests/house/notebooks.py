"""Execute the notebooks of the documents and store what they show: `make notebooks`.

The receipt that one of them reads is made first, by a rehearsed deployment. A test executes them with `SMALL` settings
and stores nothing.
"""

import base64
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
NOTEBOOKS = ("forget_a_client", "compare_methods", "receipt_and_audit")
SMALL = {"clients": 3, "samples": 200, "rounds": 1, "model": "mlp", "recover": "budget", "recover_rounds": 1}
KERNEL = "python3"


def execute(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Return a notebook with what its cells show, executed in an empty folder that has the notebook's files.

    Args:
        name: of the notebook, one of `NOTEBOOKS`.
        settings: that come on top of its own `settings`.

    Raises:
        CellExecutionError: a cell raised an error.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    cells = list(notebook.cells)
    if settings:
        place = next(i for i, cell in enumerate(cells) if "settings = {" in cell.source)
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(f"settings |= {dict(settings)!r}"))
    with tempfile.TemporaryDirectory() as folder:
        for file in FOLDER.glob("receipt*"):
            if file.suffix != ".ipynb":
                (Path(folder) / file.name).write_bytes(file.read_bytes())
        NotebookClient(notebook, timeout=600, kernel_name=KERNEL, resources={"metadata": {"path": folder}}).execute()
    if settings:
        del notebook.cells[place + 1]
    return tidied(notebook)


def tidied(notebook: Any) -> Any:
    """Return a notebook without what differs from machine to machine: times of cells, and warnings of packages."""
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def figures(notebook: Any) -> list[bytes]:
    """Return the figures that an executed notebook shows, as PNG."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})]


def make_receipt(folder: Path) -> None:
    """Rehearse a small deployment in which a device is forgotten, and store its receipt and the key that signed it."""
    from tests.harness.rehearsal import rehearse

    with tempfile.TemporaryDirectory() as place:
        rehearsal = rehearse(Path(place) / "federation")
        with rehearsal.grid() as grid:
            rehearsal.run(grid, rounds=2)
            request = rehearsal.ask(rehearsal.signed(0))
            rehearsal.run(grid, rounds=2)
        with rehearsal.ledger() as ledger:
            (folder / "receipt.json").write_bytes(ledger.request(request.id).receipt or b"")
        (folder / "receipts.pub").write_bytes((rehearsal.server / "receipts.pub").read_bytes())


def main() -> None:
    """Make the receipt, execute every notebook, and store them."""
    import nbformat

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    make_receipt(FOLDER)
    for name in NOTEBOOKS:
        nbformat.write(execute(name), FOLDER / f"{name}.ipynb")


if __name__ == "__main__":
    main()

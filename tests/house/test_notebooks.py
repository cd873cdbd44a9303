"""The notebooks of the documents: each runs, draws its figures, and is stored with what it showed."""

import pytest

from fedquit import verify
from tests.house.notebooks import FOLDER, NOTEBOOKS, SMALL, execute, figures

FIGURES = {"forget_a_client": 4, "compare_methods": 2, "receipt_and_audit": 1}
MORE = {"forget_a_client": {"references": 5}, "compare_methods": {}, "receipt_and_audit": {"references": 5}}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_on_small_settings_and_draws_its_figures(name: str) -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    notebook = execute(name, {**SMALL, **MORE[name]})
    assert [picture[:8] for picture in figures(notebook)] == [b"\x89PNG\r\n\x1a\n"] * FIGURES[name]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_with_what_its_cells_show(name: str) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert len(figures(notebook)) == FIGURES[name], "run `make notebooks`"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.get("name") == "stderr" for cell in code for output in cell.outputs)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


def test_the_receipt_beside_the_notebook_verifies() -> None:
    receipt = verify(FOLDER / "receipt.json", key=FOLDER / "receipts.pub")
    assert "verified: signed by the federation 'rehearsal'" in str(receipt)

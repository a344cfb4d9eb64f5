"""The notebook of docs/ runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[2] / "docs" / "from_python.ipynb"


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.read(BOOK, as_version=4)
    client = nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": tmp_path}})
    client.execute()
    assert not any(cell.get("outputs") for cell in nbformat.read(BOOK, as_version=4).cells)
    shown = book.cells[-1].outputs[0]["data"]["text/plain"]
    assert shown == "torch.Size([1, 10])"

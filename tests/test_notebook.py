"""The quickstart notebook runs from its first cell to its last."""

import shlex
import shutil
from pathlib import Path

import nbclient
import nbformat

from medscope_jax.report.trace import DISCLAIMER

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"


def texts(cell):
    """All that a code cell printed."""
    return "".join(output.get("text", "") for output in cell.outputs)


def test_the_notebook_runs(micro_run, micro_arguments, tmp_path, monkeypatch):
    """On the finished micro run, which the training command recognizes as done."""
    workdir = tmp_path / "run"
    shutil.copytree(micro_run, workdir)
    monkeypatch.setenv("MEDSCOPE_NOTEBOOK_WORKDIR", str(workdir))
    monkeypatch.setenv("MEDSCOPE_NOTEBOOK_ARGS", shlex.join(micro_arguments))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute()
    _, train, table, ask, page = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "is done; see" in texts(train)
    assert all(model in texts(table) for model in ("passive", "sft", "rl"))
    assert "answer" in texts(ask) and DISCLAIMER in texts(ask) and "reference: " in texts(ask)
    # Other outputs may be warnings of a library.
    shown = next(o["data"]["text/html"] for o in page.outputs if "data" in o)
    assert "<iframe" in shown and DISCLAIMER in shown


def test_the_notebook_is_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)

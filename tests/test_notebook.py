"""The quickstart notebook runs from its first cell to its last, and so does all of the TPU's that
needs no TPU."""

import shlex
import shutil
import subprocess
from pathlib import Path

import nbclient
import nbformat
import pytest

from medscope_jax.report.trace import DISCLAIMER

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
TPU_NOTEBOOK = ROOT / "notebooks" / "tpu_vm.ipynb"


def texts(cell):
    """All that a code cell printed, or showed beside its HTML."""
    return "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for output in cell.outputs
    )


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


@pytest.mark.invariant  # it runs medscope_jax.check
def test_the_tpu_notebook_runs_where_there_is_no_tpu(micro_run, monkeypatch):
    """Its Python cells; those of the shell, which would create a slice, are left out."""
    monkeypatch.setenv("MEDSCOPE_NOTEBOOK_WORKDIR", str(micro_run))
    notebook = nbformat.read(TPU_NOTEBOOK, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "tpu" not in cell.metadata.get("tags", [])]
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(TPU_NOTEBOOK.parent)}}
    )
    client.execute()
    _, names, fits, held, table = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "v5litepod-16 v2-alpha-tpuv5-lite 1 x v5e:4x4" in texts(names)
    assert "GiB" in texts(fits) or "not compiled yet" in texts(fits)
    assert "ok      bank = re-encode" in texts(held) and "all hold" in texts(held)
    assert all(model in texts(table) for model in ("passive", "sft", "rl"))


def test_the_tpu_notebook_s_shell_cells_are_marked_and_parse():
    cells = [c for c in nbformat.read(TPU_NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    shell = [cell for cell in cells if cell.source.startswith("%%bash")]
    assert len(shell) == 4 and all(cell.metadata.tags == ["tpu"] for cell in shell)
    for cell in shell:
        script = cell.source.removeprefix("%%bash")
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        assert "set -eu" in script  # a command that fails ends the cell


def test_notebooks_are_committed_without_outputs():
    for path in (NOTEBOOK, TPU_NOTEBOOK):
        notebook = nbformat.read(path, as_version=4)
        assert not any(cell.get("outputs") for cell in notebook.cells)

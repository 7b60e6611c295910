"""Every cell of every notebook runs, and what lies there was run, and is small."""

import json
import time
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MOST_BYTES = 200_000


def cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def fresh_wandb(monkeypatch):
    """W&B reads the environment once per process; here it writes files only."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run_in_order(path, capsys, fresh_wandb, monkeypatch, tmp_path):
    import matplotlib.pyplot as plt

    monkeypatch.setenv("LIT_RLHF_QUICK", "1")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    plt.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    start = time.process_time()
    with plt.rc_context():
        for cell in cells(path):
            exec(compile("".join(cell["source"]), str(path), "exec"), names)
    plt.close("all")
    assert capsys.readouterr().out
    assert time.process_time() - start < 60


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_there_complete_and_small(path):
    assert len(path.read_bytes()) < MOST_BYTES
    outputs = [output for cell in cells(path) for output in cell["outputs"]]
    assert outputs
    assert all(output["output_type"] != "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    text = json.dumps(outputs)
    assert "/tmp/" not in text
    assert "/home/" not in text

# SPDX-License-Identifier: MIT
"""The notebooks run from the first cell to the last, in an empty folder, and are small."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
SHOWN = {
    "first_comparison": "Clustered + fused",
    "own_loss": "mine",
    "open_set_pictures": "strangers are unknown",
}


def outputs(file: Path) -> tuple[str, int]:
    """What the cells of a notebook printed, and the number of figures."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    found = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    return "".join("".join(one["text"]) for one in found if "text" in one), sum("data" in one for one in found)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_small_and_shows_what_it_found(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4 and notebook.stat().st_size < 200_000
    text, figures = outputs(notebook)
    assert SHOWN[notebook.stem] in text and figures
    assert str(ROOT) not in text


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_in_an_empty_folder(notebook, tmp_path):
    copy = Path(shutil.copy(notebook, tmp_path))
    content = json.loads(copy.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    copy.write_text(json.dumps(content), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.notebooks", copy.name], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=550,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    text, figures = outputs(copy)
    assert SHOWN[notebook.stem] in text and figures == outputs(notebook)[1]


def test_every_notebook_is_known():
    assert {file.stem for file in NOTEBOOKS} == set(SHOWN)

# SPDX-License-Identifier: MIT
"""Runs notebooks: `python -m tests.notebooks FILE...` writes what their cells print and draw into the files."""

import base64
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt


def execute(notebook: dict) -> dict:
    """The notebook with the outputs of its code cells, which run one after another in one name space."""
    names: dict = {"__name__": "__main__"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        lines = said.getvalue().splitlines(keepends=True)
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": lines}] if lines else []
        for figure in map(plt.figure, plt.get_fignums()):
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png", dpi=60)
            data = {"image/png": base64.b64encode(drawn.getvalue()).decode()}
            cell["outputs"].append({"output_type": "display_data", "data": data, "metadata": {}})
        plt.close("all")
    return notebook


if __name__ == "__main__":
    for name in sys.argv[1:]:
        made = execute(json.loads(Path(name).read_text(encoding="utf-8")))
        Path(name).write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

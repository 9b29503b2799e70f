# SPDX-License-Identifier: MIT
"""Draws docs/figures/findings.png of the first table of docs/findings.md: `python -m tests.findings`."""

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).resolve().parents[1] / "docs"
LAST = "metric: one cluster -> two clusters"  # row of the table
DIFFERENCE = re.compile(r"([+-]?\d+\.\d+) \[([+-]?\d+\.\d+), ([+-]?\d+\.\d+)\]")


def differences(page: str) -> tuple[list[str], dict[str, list[tuple[float, float, float] | None]]]:
    """The data sets, and of each step mean and both ends of the interval, None where the cell has none."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    (_, *names), _, *rows = lines[: 1 + [line[0] for line in lines].index(LAST)]
    steps = {}
    for step, *cells in rows:
        found = [DIFFERENCE.search(cell.replace("−", "-")) for cell in cells]
        if any(found):
            steps[step] = [tuple(map(float, one.groups())) if one else None for one in found]
    return names, steps


def draw(names: list[str], steps: dict[str, list[tuple[float, float, float] | None]]) -> plt.Figure:
    """One row for each step, one colour for each data set."""
    figure, axes = plt.subplots(figsize=(9.5, 0.75 * len(steps) + 1.3), layout="constrained")
    colours = plt.get_cmap("viridis")([i / max(1, len(names) - 1) * 0.9 for i in range(len(names))])
    for row, cells in enumerate(steps.values()):
        for place, cell in enumerate(cells):
            if cell is not None:
                mean, low, high = cell
                y = row + 0.7 * ((place + 0.5) / len(names) - 0.5)
                axes.plot([low, high], [y, y], color=colours[place], linewidth=2)
                axes.plot(mean, y, "o", color=colours[place], markersize=5, label=names[place] if row == 0 else None)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(steps)), steps, fontsize=10)
    axes.invert_yaxis()
    for edge in range(len(steps) - 1):
        axes.axhline(edge + 0.5, color="0.88", linewidth=0.8)
    axes.set_xlabel("difference in macro F1, points; lines are 95 % intervals")
    figure.legend(loc="outside upper center", ncols=min(4, len(names)), frameon=False, fontsize=9)
    return figure


def main() -> None:
    """Reads, draws, writes."""
    figure = draw(*differences((DOCS / "findings.md").read_text("utf-8")))
    figure.savefig(DOCS / "figures" / "findings.png", dpi=110)


if __name__ == "__main__":
    main()

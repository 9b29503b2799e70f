# SPDX-License-Identifier: MIT
"""Draws docs/figures/findings.png of the first table of docs/findings.md and han.png of the first of docs/results.md.

python -m tests.findings
"""

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


def drops(page: str) -> tuple[list[str], dict[str, dict[str, dict[int, float]]]]:
    """The measures, and of each scenario what each is at every N, of the first table of macro averages in a page."""
    start = page.index("| Scenario | N = ")
    lines = [line for line in page[start : page.index("\n\n", start)].splitlines() if line[:2] != "|-"]
    (_, *sizes), *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    measures = ["precision", "recall", "F1"]
    found: dict[str, dict[str, dict[int, float]]] = {}
    for name, *cells in rows:
        if name.startswith(("the same", "`knn_metric`")):
            continue  # lines that cannot be told from others
        found[name] = {measure: {} for measure in measures}
        for size, cell in zip(sizes, cells, strict=True):
            values = re.match(r"(\d+\.\d+) / (\d+\.\d+) / (\d+\.\d+)", cell)
            for measure, value in zip(measures, values.groups() if values else (), strict=False):
                found[name][measure][int(size.split(", m")[0].removeprefix("N = ").replace(",", ""))] = float(value)
    return measures, found


def draw_drops(measures: list[str], found: dict[str, dict[str, dict[int, float]]]) -> plt.Figure:
    """A panel for each measure, a line for each scenario (Figures 6 to 8 of the paper)."""
    figure, panels = plt.subplots(1, len(measures), figsize=(13, 4.6), layout="constrained")
    for panel, measure in zip(panels, measures, strict=True):
        for place, (name, values) in enumerate(found.items()):
            style = {"linestyle": ("-", "--")[place >= 6], "marker": "osD^vP"[place % 6], "markersize": 4}
            panel.plot(*zip(*values[measure].items(), strict=True), label=name.replace("`", ""), **style)
        panel.set_xscale("log")
        ticks = sorted({size for values in found.values() for size in values[measure]})
        panel.set_xticks(ticks, [f"{size:,}" for size in ticks], rotation=60, fontsize=8)
        panel.minorticks_off()
        panel.set(title=measure, xlabel="N, identities")
    panels[0].set_ylabel("macro average on test images (%)")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    return figure


def main() -> None:
    """Reads, draws, writes."""
    figure = draw(*differences((DOCS / "findings.md").read_text("utf-8")))
    figure.savefig(DOCS / "figures" / "findings.png", dpi=110)
    figure = draw_drops(*drops((DOCS / "results.md").read_text("utf-8")))
    figure.savefig(DOCS / "figures" / "han.png", dpi=100)


if __name__ == "__main__":
    main()

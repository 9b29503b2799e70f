# SPDX-License-Identifier: MIT
"""The figure of a verification: its ROC."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiments.reporting.canvas import GREY, WIDTH_INCHES, short, style
from lightning_modules.verification import Verification


def roc_figure(results: Mapping[str, Verification]) -> Figure:
    """VAL against FAR, FAR logarithmic from one false accept on, with VAL at the FARs asked for and its spread."""
    with style():
        figure = Figure(figsize=(WIDTH_INCHES, 4.2), layout="constrained")
        axis = figure.subplots()
        lowest, least = 100.0, 1.0
        for colour, (name, result) in enumerate(results.items()):
            far, val = _from_first_false_accept(result)
            lowest = min(lowest, 100 * float(val[0]))
            least = min(least, float(far[0]))
            axis.plot(far, 100 * val, color=f"C{colour}", label=short(name))
            for one in result.val_at_far:
                mean, spread = 100 * one.val.mean(), 100 * one.val.std(ddof=1)
                lowest = min(lowest, mean - spread)
                axis.errorbar(one.far_target, mean, spread, fmt="o", color=f"C{colour}", capsize=3)
        line = np.geomspace(least, 1, 200)
        axis.plot(line, 100 * (1 - line), color=GREY, linestyle=":", linewidth=1, label="equal error")
        axis.set(xscale="log", xlabel="false accept rate FAR", ylabel="validation rate VAL, %")
        axis.set_ylim(max(0.0, lowest - 0.15 * (100 - lowest) - 0.2), 100 + 0.05 * (100 - lowest) + 0.1)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.legend(loc="lower right")
    return figure


def _from_first_false_accept(result: Verification) -> tuple[np.ndarray, np.ndarray]:
    # What comes before has FAR 0, which a logarithmic axis cannot show, and ends in a vertical step.
    first = int(np.flatnonzero(result.far > 0)[0])
    start = int(np.flatnonzero(result.far == result.far[first])[-1])
    return result.far[start:], result.val[start:]

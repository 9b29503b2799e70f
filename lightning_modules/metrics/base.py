# SPDX-License-Identifier: MIT
"""A further number about the answers to the test probes, beside accuracy, precision, recall and F1. Axes: B probes."""

from abc import ABC, abstractmethod

from torch import Tensor

from lightning_modules.decisions.base import Decided


class Metric(ABC):
    """Base of all metrics. An instance sees the test probes of one row of results.csv, block by block, once."""

    name: str = ""  # the column of results.csv: a-z, 0-9 and _
    unit: str = ""  # "percent" (0 to 100; tables print a plain number), any other unit, or "" for none
    title: str = ""  # its heading in tables; the name if empty
    digits: int = 2  # after the decimal point in tables
    higher_is_better: bool = True  # whether the highest or the lowest is printed bold

    @abstractmethod
    def update(self, answer: Decided, truth_B: Tensor) -> None:
        """Adds probes whose true identities are the (B,) int64 `truth_B`."""

    @abstractmethod
    def compute(self) -> float:
        """The number over all probes added; NaN if it does not apply."""

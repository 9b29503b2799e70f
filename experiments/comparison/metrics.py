# SPDX-License-Identifier: MIT
"""Further metrics of a comparison: files of configs/metric."""

import re
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from datamodules.errors import InputError
from experiments.command_line.choices import load_node
from experiments.reporting.columns import KNOWN, Column
from lightning_modules.metrics.base import Metric


def load_metrics(names: list[str]) -> dict[Column, dict[str, Any]]:
    """The Hydra node of each `configs/metric/<name>.yaml` by the column of the metric; each is built once.

    Raises:
        InputError: an unknown metric, a node that is no metric, or a column name that another column has.
    """
    found: dict[Column, dict[str, Any]] = {}
    for name in names:
        node = OmegaConf.to_container(load_node("metric", name), resolve=True)
        metric = instantiate(node)
        if not isinstance(metric, Metric):
            raise InputError(f"metric {name} with {node}", "a _target_ below Metric", f"correct metric/{name}.yaml")
        taken = {*KNOWN, "run", "data", "method", "seeds", *(column.name for column in found)}
        if not re.fullmatch("[a-z][a-z0-9_]*", metric.name) or metric.name in taken:
            raise InputError(
                f"metric {name} with the column {metric.name!r}", "a name of a-z, 0-9 and _ that no other column has",
                "name each metric once, and correct its attribute `name`",
            )  # fmt: skip
        about = (metric.unit, metric.title, int(metric.digits), bool(metric.higher_is_better))
        found[Column(metric.name, "metric", *about)] = node
    return found


def new_metrics(further: dict[Column, dict[str, Any]]) -> list[Metric]:
    """New, empty metrics of the nodes of `load_metrics`."""
    return [instantiate(node) for node in further.values()]

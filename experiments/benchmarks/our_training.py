# SPDX-License-Identifier: MIT
"""Our side of the training comparisons: the coordinator, as experiments.train uses it, on a set on disk."""

import io
import shutil
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from datamodules.embedding_set import EmbeddingSet
from experiments.benchmarks.config import Bench
from experiments.benchmarks.measurement import seconds
from experiments.command_line.choices import load_node
from experiments.comparison.coordinator import Cell, Coordinator
from experiments.comparison.details import training_columns
from experiments.comparison.scenarios import Scenario, make_scenario
from experiments.runs.run_folder import RunFolder
from lightning_modules.evaluation import evaluate

RECIPE = ("loss", "init", "optimizer", "active_classes", "head", "scheduler")
NEVER = 10**6  # epochs between two validations or checkpoints: neither belongs to the time of a step


@dataclass(frozen=True)
class OurTraining:
    """Trains the sub-networks of a partition again and again."""

    coordinator: Coordinator
    cell: Cell
    scenario: Scenario

    def records(self) -> list[dict[str, Any]]:
        """Trains all sub-networks anew, also finished ones, and returns the record of each."""
        shutil.rmtree(self.coordinator.run.path / "subnetworks", ignore_errors=True)
        failed = self.coordinator.train_missing([(self.cell, self.scenario)])
        if failed:
            raise RuntimeError(f"training failed: {'; '.join(reason for _, reason in failed.values())}")
        return [job.record() for job in self.coordinator.jobs(self.cell, self.scenario)]

    def accuracy(self) -> float:
        """Share of test samples, in percent, that the trained sub-networks name rightly."""
        ours, test = self.coordinator, self.coordinator.data(self.cell).splits.test
        return evaluate(ours.identifier(self.cell, self.scenario), ours.embedding_set, test)[0]["accuracy"]


@contextmanager
def our_training(
    bench: Bench, embedding_set: EmbeddingSet, n_subnets: int = 1, partitioner: str = "single",
    steps: int | None = None, folder: str = "run", launcher: str = "in_process",
    options: Mapping[str, Any] = MappingProxyType({}), **trainer: Any,
) -> Iterator[OurTraining]:  # fmt: skip
    """Makes one partition in a run folder, for trainings of its sub-networks; the folder is removed at the end.

    Args:
        steps: of an epoch; None trains with all samples.
        launcher: a file of configs/launcher; `options` replace its values.
        **trainer: keys of `trainer` that differ from the benchmark's configuration.
    """
    given: Any = OmegaConf.to_container(bench.cfg.trainer)
    never = {"check_val_every_n_epoch": NEVER, "checkpoint_every_n_epochs": NEVER}
    cfg = OmegaConf.create({
        "trainer": {**given, **never, "limit_train_batches": steps, **trainer},
        "split": {},
        "launcher": {**load_node("launcher", launcher), **options},
        "logger": load_node("logger", "none"),
    })  # fmt: skip
    recipe: DictConfig = OmegaConf.create({key: bench.cfg[key] for key in RECIPE})
    content = {"title": "benchmark", "partitioner": partitioner, "router": "nearest_class", "decision": "argmax"}
    scenario = make_scenario("benchmark", OmegaConf.create(content), recipe)
    cell = Cell(embedding_set.n_identities, n_subnets, bench.cfg.seed)
    path: Path = bench.folder / folder
    with RunFolder(path, cfg) as run:
        coordinator = Coordinator(run, embedding_set, cfg, Console(file=io.StringIO()))
        coordinator.partition(cell, scenario)  # not part of training, whoever trains
        yield OurTraining(coordinator, cell, scenario)
    shutil.rmtree(path)


def training_seconds(bench: Bench, embedding_set: EmbeddingSet, *cut: Any, **how: Any) -> float:
    """Wall clock of one training with the start of the launcher's workers; arguments as for `our_training`."""
    with our_training(bench, embedding_set, *cut, **how) as ours:
        return seconds(ours.records, bench.device)


def epoch_seconds(bench: Bench, embedding_set: EmbeddingSet, *cut: Any, **how: Any) -> float:
    """Seconds of an epoch, sub-networks one after another, the median epoch of each; see `our_training`."""
    with our_training(bench, embedding_set, *cut, **how) as ours:
        return training_columns(ours.records())["epoch_seconds_serial"]


def samples_per_second(history: list[dict[str, float]]) -> float:
    """The median over epochs, without the first if there are more: it touches memory for the first time."""
    values = [epoch["time/samples_per_second"] for epoch in history]
    return statistics.median(values[1:] or values)

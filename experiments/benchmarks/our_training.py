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
from datamodules.synthetic import SyntheticIdentities
from experiments.benchmarks.config import Bench
from experiments.benchmarks.pairing import seconds
from experiments.coordination.coordinator import Cell, Coordinator
from experiments.coordination.evaluation import evaluate
from experiments.coordination.run_folder import RunFolder
from experiments.coordination.scenarios import Scenario, load_node, make_scenario

RECIPE = ("loss", "init", "optimizer", "active_classes", "head", "scheduler")
NEVER = 10**6  # epochs between two validations or checkpoints: neither belongs to the time of a step


def synthetic_set(bench: Bench, identities: int, images: int, dim: int) -> EmbeddingSet:
    """Synthetic identities with equally many images each, written once into the scratch folder."""
    folder = bench.folder / f"set-{identities}-{images}-{dim}"
    if folder.exists():
        return EmbeddingSet.open(folder, check_values=False)
    made = SyntheticIdentities(identities, dim, samples_per_identity=images, samples_spread=0.0, seed=bench.cfg.seed)
    return made.write(folder)


@dataclass(frozen=True)
class OurTraining:
    """Trains the sub-networks of a partition again and again."""

    coordinator: Coordinator
    cell: Cell
    scenario: Scenario

    def records(self) -> list[dict[str, Any]]:
        """Trains all sub-networks anew and gives what each wrote about itself."""
        # What is finished would not be trained again.
        shutil.rmtree(self.coordinator.run.path / "subnetworks", ignore_errors=True)
        failed = self.coordinator.train([(self.cell, self.scenario)])
        if failed:
            raise RuntimeError(f"training failed: {'; '.join(reason for _, reason in failed.values())}")
        return [job.record() for job in self.coordinator.jobs(self.cell, self.scenario)]

    def accuracy(self) -> float:
        """Share of test samples, in percent, that the trained sub-networks name rightly."""
        identifier = self.coordinator.identifier(self.cell, self.scenario)
        _, splits, _ = self.coordinator.enrolled(self.cell)
        return evaluate(identifier, self.coordinator.embedding_set, splits.test)[0]["accuracy"]


@contextmanager
def our_training(
    bench: Bench, embedding_set: EmbeddingSet, n_subnets: int = 1, partitioner: str = "single",
    steps: int | None = None, folder: str = "run", launcher: str = "in_process",
    options: Mapping[str, Any] = MappingProxyType({}), **trainer: Any,
) -> Iterator[OurTraining]:  # fmt: skip
    """Makes one partition in a run folder, for trainings of its sub-networks; the folder is removed at the end.

    Args:
        steps: of an epoch; None trains with all samples.
        launcher: a file of configs/launcher.
        options: of the launcher, where they differ from that file.
        **trainer: keys of `trainer` that differ from the benchmark's configuration.
    """
    never = {"check_val_every_n_epoch": NEVER, "checkpoint_every_n_epochs": NEVER}
    given: Any = OmegaConf.to_container(bench.cfg.trainer)
    settings = {**given, **never, "limit_train_batches": steps, **trainer}
    cfg = OmegaConf.create({
        "trainer": settings,
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


def training_seconds(
    bench: Bench, embedding_set: EmbeddingSet, n_subnets: int, partitioner: str, launcher: str,
    options: Mapping[str, Any], **trainer: Any,
) -> float:  # fmt: skip
    """Wall clock of one training of all sub-networks, the start of the launcher's workers included.

    Args:
        bench, embedding_set, n_subnets, partitioner, launcher, options, **trainer: see `our_training`.
    """
    how = {"launcher": launcher, "options": options, **trainer}
    with our_training(bench, embedding_set, n_subnets, partitioner, **how) as ours:
        return seconds(ours.records, bench.device)


def samples_per_second(history: list[dict[str, float]]) -> float:
    """The median over epochs, without the first, in which memory is still being touched for the first time."""
    values = [epoch["time/samples_per_second"] for epoch in history]
    return statistics.median(values[1:] or values)

# SPDX-License-Identifier: MIT
"""Our side of the training comparisons: the coordinator, as experiments.train uses it, on a set on disk."""

import io
import os
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from datamodules.embedding_set import EmbeddingSet
from datamodules.synthetic import SyntheticIdentities
from experiments.benchmarks.config import Bench
from experiments.coordination.coordinator import Cell, Coordinator
from experiments.coordination.evaluation import evaluate
from experiments.coordination.run_folder import RunFolder
from experiments.coordination.scenarios import Scenario, load_node, make_scenario

RECIPE = ("loss", "init", "optimizer", "active_classes")
NEVER = 10**6  # epochs between two validations or checkpoints: neither belongs to the time of a step


def synthetic_set(bench: Bench, identities: int, images: int, dim: int) -> EmbeddingSet:
    """Synthetic identities with equally many images each, written once into the scratch folder.

    Args:
        bench: scratch folder and seed.
        identities: how many.
        images: of each.
        dim: of the embeddings.
    """
    folder = bench.folder / f"set-{identities}-{images}-{dim}"
    if folder.exists():
        return EmbeddingSet.open(folder, check_values=False)
    made = SyntheticIdentities(identities, dim, samples_per_identity=images, samples_spread=0.0, seed=bench.cfg.seed)
    return made.write(folder)


@dataclass(frozen=True)
class OurTraining:
    """Trains the sub-networks of a partition again and again.

    Attributes:
        coordinator: of a run folder in the scratch folder.
        cell: N, m and seed.
        scenario: partitioner and recipe.
    """

    coordinator: Coordinator
    cell: Cell
    scenario: Scenario

    def records(self) -> list[dict[str, Any]]:
        """Trains all sub-networks anew and gives what each wrote about itself.

        Raises:
            RuntimeError: one failed.
        """
        for made in ("subnetworks", "copies"):  # what is finished would not be trained again
            shutil.rmtree(self.coordinator.run.path / made, ignore_errors=True)
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
    bench: Bench,
    embedding_set: EmbeddingSet,
    n_subnets: int = 1,
    partitioner: str = "single",
    steps: int | None = None,
    folder: str = "run",
    **trainer: Any,
) -> Iterator[OurTraining]:
    """Opens a run folder for the training of one partition; it is removed at the end.

    Args:
        bench: recipe and scratch folder.
        embedding_set: the data.
        n_subnets: m.
        partitioner: name of a file in configs/partitioner.
        steps: of an epoch; None trains with all samples.
        folder: its name in the scratch folder.
        **trainer: values of `schema.TrainerConfig` that differ from the benchmark's configuration.
    """
    never = {"check_val_every_n_epoch": NEVER, "checkpoint_every_n_epochs": NEVER}
    settings = OmegaConf.merge(bench.cfg.trainer, never, trainer)
    cfg = OmegaConf.create({
        "trainer": settings,
        "split": {},
        "launcher": load_node("launcher", "in_process"),
        "logger": load_node("logger", "none"),
    })  # fmt: skip
    recipe: DictConfig = OmegaConf.create({key: bench.cfg[key] for key in RECIPE})
    content = {"title": "benchmark", "partitioner": partitioner, "router": "nearest_class", "decision": "argmax"}
    scenario = make_scenario("benchmark", OmegaConf.create(content), recipe)
    cell = Cell(embedding_set.n_identities, n_subnets, bench.cfg.seed)
    path: Path = bench.folder / folder
    with RunFolder(path, cfg) as run, limited_steps(steps):
        coordinator = Coordinator(run, embedding_set, cfg, Console(file=io.StringIO()))
        yield OurTraining(coordinator, cell, scenario)
    shutil.rmtree(path)


@contextmanager
def limited_steps(steps: int | None) -> Iterator[None]:
    """Lets every Trainer made inside it train only so many batches of an epoch.

    Args:
        steps: batches; None leaves all.
    """
    if steps is None:
        yield
        return
    name = "PL_TRAINER_LIMIT_TRAIN_BATCHES"  # Lightning takes defaults of the Trainer's arguments from there
    before = os.environ.get(name)
    os.environ[name] = str(steps)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def samples_per_second(history: list[dict[str, float]]) -> float:
    """The median over epochs, without the first, in which memory is still being touched for the first time.

    Args:
        history: of a fit, as `callbacks.history.History` keeps it.
    """
    values = [epoch["time/samples_per_second"] for epoch in history]
    return statistics.median(values[1:] or values)

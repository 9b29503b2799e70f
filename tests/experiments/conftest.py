# SPDX-License-Identifier: MIT
"""A coordinator as `experiments.compare` builds it, without its report."""

import importlib
import io
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import hydra
import numpy as np
import pytest
from omegaconf import DictConfig
from rich.console import Console

from datamodules.class_means import class_means
from datamodules.embedding_set import EmbeddingSet
from datamodules.partitioners.base import Partition
from datamodules.partitioners.random import RandomPartitioner
from datamodules.splits import split_identities
from experiments.command_line.trainer_arguments import defaults
from experiments.training.job import Job, Recipe

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("trainer.accelerator=cpu", "trainer.threads=1", "trainer.max_epochs=2", "trainer.batch_size=16", "logger=none")


@pytest.fixture(scope="session")
def quick(set_folder) -> tuple[str, ...]:
    """Arguments that make `experiments.compare` quick: the toy set, two epochs, two clusters, no tracking."""
    return (*QUICK, "data=embedding_set", f"data.path={set_folder}", "n_subnets=2")


@pytest.fixture(scope="session")
def compose() -> Callable[..., DictConfig]:
    """`compose("compare", "seeds=1", ...)`: the configuration of a command."""

    def composed(name: str, *arguments: str) -> DictConfig:
        importlib.import_module(f"experiments.{name}")  # stores the schema that <name>.yaml names
        with hydra.initialize_config_dir(str(ROOT / "experiments/configs"), version_base="1.3"):
            return hydra.compose(name, list(arguments))

    return composed


@pytest.fixture
def coordinate(tmp_path, quick, compose):
    """`with coordinate("scenarios=[...]", name="a") as (coordinator, scenarios)`; runs in `<tmp_path>/<name>`."""

    from experiments.comparison.coordinator import Coordinator
    from experiments.comparison.data import open_data
    from experiments.comparison.entries import load_entries
    from experiments.runs.run_folder import RunFolder

    @contextmanager
    def opened(*arguments: str, name: str = "run"):
        cfg = compose("compare", *quick, f"runs_dir={tmp_path}", *arguments)
        with RunFolder(tmp_path / name, cfg) as run:
            coordinator = Coordinator(run, open_data(cfg, None), cfg, Console(file=io.StringIO()))
            yield coordinator, {scenario.name: scenario for scenario in load_entries(cfg.scenarios, cfg).scenarios}

    return opened


@pytest.fixture
def make_jobs(set_folder, tmp_path):
    """`make_jobs(run_name, ...)`: jobs of six epochs on the toy set, two clusters at random unless `cluster_of` says.

    Further arguments are `loss`, `init`, `optimizer` and `tracking` (nodes) and settings of the trainer.
    """
    toy = EmbeddingSet.open(set_folder)
    split = {"n_identities": 16, "seed": 0, "max_test_images": 5, "held_out": 0.0}
    means_KD = class_means(toy.embeddings, split_identities(toy, **split).train, 16)

    def make(run: str, loss=None, init=None, optimizer=None, tracking=None, cluster_of=None, **settings) -> list[Job]:
        if cluster_of is None:
            partition = RandomPartitioner().fit(means_KD, 2, 0)
        else:
            partition = Partition(np.array(cluster_of, np.int32), max(cluster_of) + 1)
        place = tmp_path / f"partition-{partition.hash()[:8]}"
        if not place.exists():
            partition.save(place)
        trainer = {**defaults(), "max_epochs": 6, "batch_size": 8, "accelerator": "cpu", **settings}
        adam = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.01, "betas": [0.9, 0.99]}
        recipe = Recipe(
            loss=loss or {"_target_": "lightning_modules.losses.arcface.ArcFace"},
            init=init or {"_target_": "lightning_modules.initialisers.RandomInit"},
            optimizer=optimizer or adam,
            trainer=trainer,
            seed=0,
        )
        folder = tmp_path / run
        folder.mkdir(exist_ok=True)
        return [
            Job(
                run=run, run_folder=str(folder), data=str(set_folder), split=split, partition=str(place),
                cluster=cluster, recipe=recipe, key="key", title=f"cluster {cluster}",
                tracking=tracking or {"_target_": "experiments.runs.tracking.NoTracking"}, facts={},
            )
            for cluster in range(partition.n_clusters)
        ]  # fmt: skip

    return make

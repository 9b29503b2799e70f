# SPDX-License-Identifier: MIT
"""What the coordinator costs over the bare training loops, and what worker processes gain over one process.

Bare: the same sub-networks, batches and optimiser in a plain loop of Lightning fits, without run folder, jobs,
checkpoints, records and progress. All on the CPU with one thread per process. Axes: N identities, m sub-networks.
"""

import io
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from datamodules.cluster_datamodule import ClusterDataModule
from datamodules.partitioners.samples import TrainingSamples
from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.pairing import Taken, record
from experiments.coordination.command_line import CONFIGS, quieten
from experiments.coordination.coordinator import Cell, Coordinator
from experiments.coordination.data import open_data
from experiments.coordination.run_folder import RunFolder
from experiments.coordination.scenarios import Scenario, load_scenarios
from lightning_modules.heads import Head, starting_rows
from lightning_modules.subnetwork import SubNetwork


class OverheadBenchmark(Group):
    """See `records`.

    Args:
        n_identities, n_subnets, epochs, repeats: as of `records`.
    """

    def __init__(self, n_identities: int = 10_000, n_subnets: int = 5, epochs: int = 3, repeats: int = 3):
        self.arguments = n_identities, n_subnets, epochs, repeats

    def measure(self, bench: Bench) -> Iterator[dict]:
        """See `Group.measure`."""
        yield from records(*self.arguments)


def records(n_identities: int = 10_000, n_subnets: int = 5, epochs: int = 3, repeats: int = 3) -> Iterator[dict]:
    """Two measurements: in_process against bare loops, and processes against in_process.

    Args:
        n_identities: N, synthetic.
        n_subnets: m.
        epochs: of each sub-network.
        repeats: rounds in which each way is measured once; the ratio is the median of the rounds.
    """
    torch.set_num_threads(1)
    quieten()
    with tempfile.TemporaryDirectory() as folder:
        cell, workers = Cell(n_identities, n_subnets, 0), min(2, os.cpu_count() or 1)
        ways = {
            "bare": partial(_bare, _config(folder, epochs), cell),
            "in_process": partial(_coordinated, _config(folder, epochs), cell),
            "processes": partial(
                _coordinated,
                _config(folder, epochs, "launcher=processes", f"launcher.workers={workers}", "launcher.threads=1"),
                cell,
            ),
        }
        ways["bare"](Path(folder) / "first")  # pays for data, imports and allocations
        rounds = [
            {name: way(Path(folder) / f"{name}-{number}") for name, way in ways.items()} for number in range(repeats)
        ]
    classes, processes = n_identities // n_subnets, f"coordinator, {workers} processes of 1 thread"
    yield _line("coordinator, in_process", classes, rounds, "in_process", "bare loops", "bare")
    yield _line(processes, classes, rounds, "processes", "in_process, 1 thread", "in_process")


def _line(name: str, classes: int, rounds: list[dict[str, float]], ours: str, against: str, theirs: str) -> dict:
    taken = [Taken(tuple(seconds[way] for seconds in rounds), 0) for way in (ours, theirs)]
    return record(name, classes, 256, "medium", against, "s", *taken)


def _config(folder: str, epochs: int, *more: str) -> DictConfig:
    import experiments.coordination.schema as schema

    hydra.core.config_store.ConfigStore.instance().store(name="compare_schema", node=schema.CompareConfig)
    # A command that measures is composed by Hydra itself, which holds one composition at a time.
    holder = GlobalHydra.instance()
    outer, holder.hydra = holder.hydra, None
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra.compose(
                "compare",
                [f"trainer.max_epochs={epochs}", "trainer.accelerator=cpu", "trainer.threads=1", "logger=none",
                 f"runs_dir={folder}", *more],
            )  # fmt: skip
    finally:
        holder.hydra = outer


def _prepared(cfg: DictConfig, cell: Cell, run: RunFolder) -> tuple[Coordinator, Scenario]:
    coordinator = Coordinator(run, open_data(cfg, [cell.n_identities]), cfg, Console(file=io.StringIO()))
    (scenario,) = load_scenarios("clustered_nearest", cfg)
    coordinator.partition(cell, scenario)  # not part of training, whoever trains
    return coordinator, scenario


def _coordinated(cfg: DictConfig, cell: Cell, folder: Path) -> float:
    with RunFolder(folder, cfg) as run:
        coordinator, scenario = _prepared(cfg, cell, run)
        start = time.perf_counter()
        failed = coordinator.train([(cell, scenario)])
        assert not failed, failed
        return time.perf_counter() - start


def _bare(cfg: DictConfig, cell: Cell, folder: Path) -> float:
    with RunFolder(folder, cfg) as run:
        coordinator, scenario = _prepared(cfg, cell, run)
        partition, _ = coordinator.partition(cell, scenario)
        embedding_set, splits, means_KD = coordinator.enrolled(cell)
    loss, init, make = (instantiate(node) for node in (scenario.loss, scenario.init, scenario.optimizer))
    start = time.perf_counter()
    for cluster in range(cell.n_subnets):
        members_C = partition.members(cluster)
        data = ClusterDataModule(embedding_set, splits, members_C, cfg.trainer.batch_size, 0, cluster)
        fitted = init.fit(TrainingSamples(embedding_set.embeddings, data.train_split))
        rows_CD = starting_rows(fitted, torch.from_numpy(means_KD[members_C]), torch.Generator().manual_seed(cluster))
        network = SubNetwork(Head(rows_CD, loss.unit_rows, cfg.trainer.matmul), loss, make)
        trainer = pl.Trainer(
            max_epochs=cfg.trainer.max_epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(network, datamodule=data)
    return time.perf_counter() - start

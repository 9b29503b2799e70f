# SPDX-License-Identifier: MIT
"""One triplet training: from a job to weights and their record on disk, epoch by epoch."""

import signal
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import safetensors.torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import DataLoader

from callbacks.epoch_checkpoint import EpochCheckpoint
from callbacks.epoch_clock import EpochClock
from callbacks.finite import StopOnNonFinite
from callbacks.history import History
from callbacks.reporting import ReportEpoch
from datamodules.errors import InputError
from datamodules.extractors.base import seeded
from datamodules.identity_batches import IdentityDataModule
from experiments.coordination.command_line import CONFIGS
from experiments.coordination.job import Job, Recipe
from experiments.coordination.run_folder import RunFolder
from experiments.facenet.people import People
from lightning_modules.triplet import TripletModule


def build_network(cfg: DictConfig) -> nn.Module:
    """The network with initial weights that depend on the seed alone; a lazy layer is still open.

    Args:
        cfg: the configuration of experiments.train_facenet.
    """
    with seeded(cfg.seed):
        return instantiate(cfg.network)


def load_miners(cfg: DictConfig) -> dict[str, DictConfig]:
    """The nodes of `configs/miner` that were asked for.

    Args:
        cfg: with the keys miners and alpha.

    Raises:
        InputError: no miner, or one that there is not, or a margin that is not positive.
    """
    known = sorted(file.stem for file in (CONFIGS / "miner").glob("*.yaml"))
    if not cfg.miners or not set(cfg.miners) <= set(known):
        raise InputError(f"miners = {list(cfg.miners)}", f"some of {', '.join(known)}", "set miners")
    if not 0 < cfg.alpha <= 4:
        raise InputError(f"alpha = {cfg.alpha:g}", "above 0, at most 4, the largest squared distance", "set alpha")
    root = {name: OmegaConf.load(CONFIGS / "miner" / f"{name}.yaml") for name in cfg.miners}
    return {name: OmegaConf.create({"alpha": cfg.alpha, "miner": node}).miner for name, node in root.items()}


def make_job(run: RunFolder, people: People, cfg: DictConfig, name: str, miner: DictConfig) -> Job:
    """What the weights depend on, as plain values.

    Args:
        run: the run folder.
        people: the data.
        cfg: the configuration of experiments.train_facenet.
        name: of the miner.
        miner: its node.
    """
    plain = OmegaConf.to_container(cfg, resolve=True)
    recipe = Recipe(
        loss={"alpha": cfg.alpha, "miner": OmegaConf.to_container(miner, resolve=True)},
        init=plain["network"],
        optimizer=plain["optimizer"],
        trainer={**plain["trainer"], "batch": {key: plain["batch"][key] for key in ("identities", "images")}},
        seed=cfg.seed,
    )
    return Job(
        run=run.path.name,
        run_folder=str(run.path),
        data=people.name,
        split={},
        partition="",
        cluster=0,
        recipe=recipe,
        key=f"{name}-{recipe.key(people.fingerprint, '')}",
        title=f"{people.name} {name} seed {cfg.seed}",
        tracking=plain["logger"],
        facts={"dataset": people.name, "miner": name},
    )


def train(
    job: Job,
    miner: DictConfig,
    network: nn.Module,
    data: IdentityDataModule,
    report: Callable[[int, int, dict[str, float]], None],
) -> dict[str, Any]:
    """Trains a network and leaves `<stem>.safetensors` and, after it, `<stem>.json`; a finished job is only read.

    Args:
        job: what to train.
        miner: node of the miner.
        network: with initial weights; afterwards with the trained ones.
        data: the batches.
        report: called after each epoch.

    Returns:
        The record: seconds, epochs, history.
    """
    record, weights = job.record() or job.restore(), job.stem.with_suffix(".safetensors")
    if record is None:
        started = time.perf_counter()
        history, tracking = History(), instantiate(job.tracking)
        module = TripletModule(network, instantiate(miner), job.recipe.loss["alpha"], instantiate(job.recipe.optimizer))
        tracker = tracking.open(job)
        settings = {key: job.recipe.trainer[key] for key in ("max_epochs", "accelerator", "precision")}
        trainer = pl.Trainer(
            **settings,
            devices=1,
            logger=[history] + ([tracker] if tracker else []),
            callbacks=[
                EpochCheckpoint(job.stem, job.key, history),
                EpochClock(),
                StopOnNonFinite(),
                ReportEpoch(report),
            ],
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=10**9,  # values are logged once per epoch
        )
        try:
            with seeded(job.recipe.seed):  # of dropout and mirroring
                trainer.fit(module, datamodule=data)
        except SystemExit:  # Lightning's way to answer Ctrl-C; it also leaves further ones ignored
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None
        finally:
            tracking.close()
        record = _keep(job, network, history, time.perf_counter() - started)
    network.load_state_dict(safetensors.torch.load_file(weights))
    return record


def materialise(network: nn.Module, loader: DataLoader, seed: int) -> None:
    """Lets lazy layers take their shape, and their weights by the seed, from two samples.

    Args:
        network: with or without lazy layers.
        loader: of samples.
        seed: of the weights.
    """
    samples, _ = next(iter(loader))
    with seeded(seed):
        network.eval()(samples[:2])
    network.train()


def _keep(job: Job, network: nn.Module, history: History, seconds: float) -> dict[str, Any]:
    records = history.records
    record = {
        "title": job.title,
        "epochs": len(records),
        "seconds": seconds,
        "history": records,
    }
    return job.finish(network.state_dict(), record)

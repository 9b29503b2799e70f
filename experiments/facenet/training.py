# SPDX-License-Identifier: MIT
"""One triplet training: from a job to weights and their record on disk."""

from typing import Any

import safetensors.torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import DataLoader

from datamodules.errors import InputError
from datamodules.extractors.base import seeded
from datamodules.identity_batches import IdentityDataModule
from experiments.command_line.choices import load_node
from experiments.facenet.data import TripletData
from experiments.runs.run_folder import RunFolder
from experiments.training.fit import fit
from experiments.training.job import EpochReport, Job, Recipe
from lightning_modules.triplet import TripletModule


def build_network(cfg: DictConfig) -> nn.Module:
    """The network with initial weights that depend on the seed alone; lazy layers have no shape yet."""
    with seeded(cfg.seed):
        return instantiate(cfg.network)


def load_miners(cfg: DictConfig) -> dict[str, DictConfig]:
    """The nodes of `configs/miner` that were asked for; refuses an unknown one, and alpha out of range."""
    if not 0 < cfg.alpha <= 4:
        raise InputError(f"alpha = {cfg.alpha:g}", "above 0, at most 4, the largest squared distance", "set alpha")
    # A file may refer to alpha.
    nodes = {name: {"alpha": cfg.alpha, "miner": load_node("miner", name)} for name in cfg.miners}
    return {name: OmegaConf.create(node).miner for name, node in nodes.items()}


def make_job(run: RunFolder, data: TripletData, cfg: DictConfig, name: str, miner: DictConfig) -> Job:
    """The job of one miner, as plain values."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    batch = {key: plain["batch"][key] for key in ("identities", "images")}
    loss = {"alpha": cfg.alpha, "miner": OmegaConf.to_container(miner, resolve=True), "batch": batch}
    recipe = Recipe(loss, plain["network"], plain["optimizer"], plain["trainer"], cfg.seed)
    return Job(
        run=run.path.name, run_folder=str(run.path), data=data.name, split={}, partition="", cluster=0, recipe=recipe,
        key=f"{name}-{recipe.key(data.fingerprint, '')}", lineage=recipe.lineage(data.fingerprint, name),
        title=f"{data.name} {name} seed {cfg.seed}", tracking=plain["logger"],
        facts={"dataset": data.name, "miner": name},
    )  # fmt: skip


def train_with_miner(
    job: Job, miner: DictConfig, network: nn.Module, data: IdentityDataModule, report: EpochReport
) -> dict[str, Any]:
    """Trains a network and writes `<stem>.safetensors`, then `<stem>.json`; a finished job is only read.

    The network gets the trained weights. Returns the record: seconds, epochs, history.
    """
    record = job.record()
    if record is None:
        module = TripletModule(network, instantiate(miner), job.recipe.loss["alpha"], instantiate(job.recipe.optimizer))
        with seeded(job.recipe.seed):  # dropout and mirroring
            fitted = fit(job, module, data, report)
        record = {"title": job.title, "epochs": len(fitted.history), "seconds": fitted.seconds}
        record = job.finish(network.state_dict(), {**record, "history": fitted.history})
    network.load_state_dict(safetensors.torch.load_file(job.stem.with_suffix(".safetensors")))
    return record


def shape_lazy_layers(network: nn.Module, loader: DataLoader, seed: int) -> None:
    """Gives lazy layers their shape from two samples, and weights that depend on the seed alone."""
    samples, _ = next(iter(loader))
    with seeded(seed):
        network.eval()(samples[:2])
    network.train()

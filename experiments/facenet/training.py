# SPDX-License-Identifier: MIT
"""One triplet training: from a job to weights and their record on disk, epoch by epoch."""

from typing import Any

import safetensors.torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import DataLoader

from datamodules.errors import InputError
from datamodules.extractors.base import seeded
from datamodules.identity_batches import IdentityDataModule
from experiments.coordination.command_line import CONFIGS
from experiments.coordination.job import EpochReport, Job, Recipe
from experiments.coordination.run_folder import RunFolder
from experiments.facenet.people import People
from experiments.training.fit import fit
from lightning_modules.triplet import TripletModule


def build_network(cfg: DictConfig) -> nn.Module:
    """The network with initial weights that depend on the seed alone; a lazy layer is still open."""
    with seeded(cfg.seed):
        return instantiate(cfg.network)


def load_miners(cfg: DictConfig) -> dict[str, DictConfig]:
    """The nodes of `configs/miner` that were asked for.

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
    """What the weights depend on, as plain values."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    batch = {key: plain["batch"][key] for key in ("identities", "images")}
    loss = {"alpha": cfg.alpha, "miner": OmegaConf.to_container(miner, resolve=True), "batch": batch}
    recipe = Recipe(loss, plain["network"], plain["optimizer"], plain["trainer"], cfg.seed)
    return Job(
        run=run.path.name, run_folder=str(run.path), data=people.name, split={}, partition="", cluster=0, recipe=recipe,
        key=f"{name}-{recipe.key(people.fingerprint, '')}", lineage=recipe.lineage(people.fingerprint, name),
        title=f"{people.name} {name} seed {cfg.seed}", tracking=plain["logger"],
        facts={"dataset": people.name, "miner": name},
    )  # fmt: skip


def train(
    job: Job, miner: DictConfig, network: nn.Module, data: IdentityDataModule, report: EpochReport
) -> dict[str, Any]:
    """Trains a network and leaves `<stem>.safetensors` and, after it, `<stem>.json`; a finished job is only read.

    Args:
        network: with initial weights; afterwards with the trained ones.

    Returns:
        The record: seconds, epochs, history.
    """
    record = job.record()
    if record is None:
        module = TripletModule(network, instantiate(miner), job.recipe.loss["alpha"], instantiate(job.recipe.optimizer))
        with seeded(job.recipe.seed):  # of dropout and mirroring
            fitted = fit(job, module, data, report)
        record = {"title": job.title, "epochs": len(fitted.history), "seconds": fitted.seconds}
        record = job.finish(network.state_dict(), {**record, "history": fitted.history})
    network.load_state_dict(safetensors.torch.load_file(job.stem.with_suffix(".safetensors")))
    return record


def materialise(network: nn.Module, loader: DataLoader, seed: int) -> None:
    """Lets lazy layers, where there are any, take their shape, and their weights by the seed, from two samples."""
    samples, _ = next(iter(loader))
    with seeded(seed):
        network.eval()(samples[:2])
    network.train()

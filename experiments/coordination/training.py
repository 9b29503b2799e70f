# SPDX-License-Identifier: MIT
"""What a worker does: train the sub-network of a job and leave its weights and its record on disk."""

import logging
from typing import Any

import torch

from experiments.coordination.job import EpochReport, Job
from experiments.coordination.networks import Enrolled, network
from experiments.training.fit import Fitted, fit
from lightning_modules.heads.linear import LinearHead
from lightning_modules.sharded_head import ShardedSubNetwork

log = logging.getLogger(__name__)


def train(job: Job, report: EpochReport | None = None) -> None:
    """Trains the sub-network of a job on the data it names; see `train_on`."""
    train_on(job, Enrolled.of(job), report)


def train_on(job: Job, enrolled: Enrolled, report: EpochReport | None = None) -> None:
    """Trains one sub-network. Its initial weights and batch order depend on (seed, cluster) alone.

    Leaves `<stem>.safetensors` (state dict of head and loss) and, after it, `<stem>.json`, which makes the job
    finished: history per epoch, seconds, parameters, peak memory, hash of the weights.

    Args:
        job: its data, split and partition are not looked at.
    """
    subnetwork, data = network(job, enrolled)
    fitted = fit(job, subnetwork, data, report)
    state = subnetwork.whole_state() if isinstance(subnetwork, ShardedSubNetwork) else subnetwork.state_dict()
    if fitted.is_global_zero:
        keep(job, state, fitted, {"classes": subnetwork.head.n_classes, "dim": subnetwork.head.dim})
    data.release()
    if isinstance(subnetwork.head, LinearHead):
        subnetwork.head.scratch.clear()


def keep(job: Job, state: dict[str, torch.Tensor], fitted: Fitted, facts: dict[str, Any]) -> None:
    """Leaves the files of a finished job."""
    parameters = sum(value.numel() for value in state.values())
    job.finish(state, {"title": job.title, "cluster": job.cluster, "parameters": parameters, **fitted.facts, **facts})
    last = fitted.history[-1] if fitted.history else {}
    shown = ", ".join(f"{name} {last[name]:.4g}" for name in ("train/loss", "val/accuracy_percent") if name in last)
    log.info("%s: %d epochs in %.1f s, %s", job.title, len(fitted.history), fitted.seconds, shown)

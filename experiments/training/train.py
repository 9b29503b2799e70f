# SPDX-License-Identifier: MIT
"""Trains the sub-network of a job and writes its weights and its record."""

import logging

from experiments.training.build import build
from experiments.training.cluster_data import ClusterData, JobData
from experiments.training.fit import fit
from experiments.training.job import EpochReport, Job
from lightning_modules.heads.linear import LinearHead
from lightning_modules.kernels import rounds_gradients
from lightning_modules.sharded_head import ShardedSubNetwork

log = logging.getLogger(__name__)


def train(job: Job, data: ClusterData, report: EpochReport | None = None) -> None:
    """Trains one sub-network and writes it with `Job.finish`; the paths in the job are not opened."""
    subnetwork, batches = build(job, data)
    result = fit(job, subnetwork, batches, report)
    state = subnetwork.whole_state() if isinstance(subnetwork, ShardedSubNetwork) else subnetwork.state_dict()
    if result.is_global_zero:
        facts = {"classes": subnetwork.head.n_classes, "dim": subnetwork.head.dim, **result.facts}
        facts |= {"parameters": sum(value.numel() for value in state.values())}
        batch_device = subnetwork.trainer.strategy.root_device
        facts |= {"rounded_gradients": rounds_gradients(subnetwork.head.precision, batch_device)}
        job.finish(state, {"title": job.title, "cluster": job.cluster, **facts})
        last = result.history[-1] if result.history else {}
        shown = ", ".join(f"{name} {last[name]:.4g}" for name in ("train/loss", "val/accuracy_percent") if name in last)
        log.info("%s: %d epochs in %.1f s, %s", job.title, len(result.history), result.seconds, shown)
    batches.release()
    if isinstance(subnetwork.head, LinearHead):
        subnetwork.head.scratch.clear()


class WorkerTraining:
    """Trains jobs that another process sent: opens the data that they name."""

    def __init__(self):
        self.data = JobData()

    def __call__(self, job: Job, report: EpochReport | None = None) -> None:
        train(job, self.data.open(job), report)

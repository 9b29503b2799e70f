# SPDX-License-Identifier: MIT
"""Trains several jobs as one stack, and leaves of each exactly what `training.train` leaves.

A stack is for devices that one small sub-network cannot fill. It changes nothing of what is learnt: batches, steps,
checkpoints and records of a sub-network are those it would have alone.
"""

import gc
import logging
import signal
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

import pytorch_lightning as pl
import torch
from hydra.utils import get_method, instantiate
from pytorch_lightning import Callback

from callbacks.epoch_checkpoint import (
    keep_checkpoint,
    load_optimizer,
    newest_checkpoint,
    optimizer_state,
    skip_epochs,
)  # fmt: skip
from callbacks.epoch_clock import peak_memory_mb, reset_peak_memory, wait
from callbacks.finite import divergence
from callbacks.history import History
from datamodules.cluster_datamodule import IndexBatches
from datamodules.files import disk_error
from datamodules.stacked_batches import StackedBatches
from experiments.coordination.job import Job, Stack
from experiments.coordination.networks import Enrolled, head_options, optimizer, start
from experiments.coordination.training import EpochReport, keep
from lightning_modules.active_classes import EveryClass
from lightning_modules.heads import Head
from lightning_modules.kernels import matmul_precision
from lightning_modules.losses.base import MarginLoss
from lightning_modules.stacked import StackedSubNetworks, can_stack

log = logging.getLogger(__name__)

GPU_STACK = 16  # sub-networks of a stack on a GPU where nothing else is asked for


def train(work: Job | Stack, report: EpochReport | None = None) -> None:
    """Trains one network by its entry, or the sub-networks of a stack; `training.train` says what it leaves of each.

    Args:
        work: what to train.
        report: called after each epoch.

    Raises:
        StackError: jobs of a stack failed; the others are finished.
    """
    if isinstance(work, Job):
        get_method(work.entry)(work, report)
    else:
        _train_stack(work.jobs, report)


class StackError(RuntimeError):
    """Some jobs of a stack failed."""


def stacked(jobs: Sequence[Job]) -> list[Job | Stack]:
    """Jobs in the groups in which they are trained: each of one recipe, and of `trainer.stack` jobs at most.

    Args:
        jobs: to train.
    """
    groups: list[list[Job]] = []
    for job in jobs:
        last = groups[-1] if groups else []
        if last and last[0].key == job.key and len(last) < stack_size(job):
            last.append(job)
        else:
            groups.append([job])
    return [group[0] if len(group) == 1 else Stack(tuple(group)) for group in groups]


def stack_size(job: Job) -> int:
    """How many sub-networks like that of a job are trained at once.

    `trainer.stack=auto` takes 1 on a CPU, which one sub-network fills, and up to 16 on a GPU. Losses that `can_stack`
    refuses, heads that sample their classes, and sub-networks over several devices are trained alone.

    Args:
        job: any of the stack.
    """
    recipe, settings = job.recipe, job.recipe.trainer
    every_class = isinstance(instantiate(recipe.active_classes), EveryClass)
    if settings["devices"] > 1 or not every_class or not can_stack(instantiate(recipe.loss)):
        return 1
    if settings["stack"] != "auto":
        return int(settings["stack"])
    on_gpu = settings["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return GPU_STACK if on_gpu else 1


def reasons_by_job(work: Iterable[Job | Stack], reasons: dict[str, str]) -> dict[str, str]:
    """Why jobs failed, where a launcher names stacks.

    Args:
        work: what the launcher was given.
        reasons: what it returned.

    Returns:
        For each job that is not finished, by `Job.identifier`, why its stack failed.
    """
    found: dict[str, str] = {}
    for unit in work:
        if unit.identifier in reasons:
            jobs = [unit] if isinstance(unit, Job) else [job for job in unit.jobs if job.record() is None]
            found |= {job.identifier: reasons[unit.identifier] for job in jobs}
    return found


class WatchingStacks:
    """Passes what a launcher tells of a stack on to whoever wants to hear of each job.

    Args:
        progress: told of every start, epoch and end of a job.
        work: jobs and stacks of jobs.
    """

    def __init__(self, progress: Any, work: Iterable[Job | Stack]):
        self.progress = progress
        self._titles = {unit.title: [job.title for job in getattr(unit, "jobs", [unit])] for unit in work}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.progress, name)

    def job_starts(self, title: str) -> None:
        """A job or stack begins.

        Args:
            title: of the job or stack.
        """
        for each in self._titles[title]:
            self.progress.job_starts(each)

    def epoch(self, title: str, done: int, of: int, values: dict[str, float]) -> None:
        """An epoch of a job or stack ended.

        Args:
            title: of the job or stack.
            done: epochs that are done.
            of: epochs in all.
            values: logged so far, by name.
        """
        for each in self._titles[title]:
            self.progress.epoch(each, done, of, values)

    def job_ends(self, title: str) -> None:
        """A job or stack is done, or has failed.

        Args:
            title: of the job or stack.
        """
        for each in self._titles[title]:
            self.progress.job_ends(each)


class _Member:
    """One sub-network of a stack: its data, head, history, and the checkpoint it starts from."""

    samples: int
    share: float  # of the stack's time
    val: IndexBatches | None

    def __init__(self, job: Job):
        self.job, self.history = job, History()
        self.error: Exception | None = None
        begin = start(job, Enrolled.of(job))
        self.data, self.loss = begin.data, begin.loss
        self.head = Head(begin.rows_CD, **head_options(job, begin.loss))
        self.checkpoint = newest_checkpoint(job.stem, job.key)
        self.epoch = self.checkpoint[1]["epoch"] if self.checkpoint else 0


def _train_stack(jobs: Sequence[Job], report: EpochReport | None) -> None:
    settings = jobs[0].recipe.trainer
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    gc.collect()  # the last stack, which its Trainer holds in a circle
    members = [_Member(job) for job in jobs if job.record() is None]
    failed: list[_Member] = []
    for epoch in sorted({member.epoch for member in members}):  # those stopped at one epoch go on together
        failed += _fit([member for member in members if member.epoch == epoch], report)
    if failed:
        why = "; ".join(f"cluster {member.job.cluster}: {member.error}" for member in failed)
        raise StackError(f"{len(failed)} of {len(jobs)} sub-networks of a stack failed: {why}")


def _fit(members: list[_Member], report: EpochReport | None) -> list[_Member]:
    started, recipe = time.perf_counter(), members[0].job.recipe
    settings = recipe.trainer
    network = StackedSubNetworks(
        [member.head for member in members], cast(MarginLoss, members[0].loss), partial(optimizer, recipe.optimizer),
        settings["schedule"],
    )  # fmt: skip
    trainer = pl.Trainer(
        max_epochs=settings["max_epochs"],
        accelerator=settings["accelerator"],
        devices=1,
        num_sanity_val_steps=0,
        logger=False,
        callbacks=[_Epochs(members, settings, report)],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(network, datamodule=_StackedData(members))
    except SystemExit:  # see `training.train_on`
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
    for member in members:
        try:
            if member.error:
                raise member.error
            _publish(member)
            rows_CD = member.head.rows().detach().cpu().contiguous()
            keep(member.job, rows_CD, 1, member.history, (time.perf_counter() - started) * member.share)
        except Exception as error:
            if disk_error(error) is not None:
                raise
            log.exception("%s failed", member.job.title)
            member.error = error
    return [member for member in members if member.error]


class _StackedData(pl.LightningDataModule):
    """Training batches of all members side by side."""

    def __init__(self, members: list[_Member]):
        super().__init__()
        self.members = members

    def train_dataloader(self) -> StackedBatches:
        for member in self.members:
            member.data.trainer = self.trainer
        return StackedBatches([member.data.train_dataloader() for member in self.members])


class _Epochs(Callback):
    """Per member what SubNetwork and its callbacks do: resume, clock, validation, records, checkpoints, reports."""

    def __init__(self, members: list[_Member], settings: dict[str, Any], report: EpochReport | None):
        self.members, self.settings, self.report = members, settings, report
        samples = [len(member.data.train_split) for member in members]
        for member, count in zip(members, samples, strict=True):
            # A member's share of the stack's time is its share of the work.
            member.samples, member.share = count, count / sum(samples)

    def on_train_start(self, trainer: pl.Trainer, module: StackedSubNetworks) -> None:  # type: ignore[override]
        for member in self.members:
            member.val = member.data.val_dataloader() if len(member.data.val_split) else None
            if member.checkpoint:
                tensors, facts = member.checkpoint
                with torch.no_grad():
                    member.head.weight_CD.copy_(tensors["model.head.weight_CD"])
                alone = module.make_optimizer([member.head.weight_CD])
                load_optimizer(alone, tensors, facts["optimizer"])
                trainer.optimizers[0].state[member.head.weight_CD] = alone.state[member.head.weight_CD]
                member.history.restore(facts["history"])
        skip_epochs(trainer, self.members[0].epoch)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch
        if epoch > self.members[0].epoch and epoch % self.settings["checkpoint_every_n_epochs"] == 0:
            for member in self.members:
                if not member.error:
                    self._keep(member, trainer.optimizers[0], epoch)
        reset_peak_memory(module.device)
        wait(module.device)
        self._start = time.perf_counter()

    @staticmethod
    def _keep(member: _Member, shared: torch.optim.Optimizer, epoch: int) -> None:
        """The checkpoint that the member would have alone: it may go on alone, or in another stack."""
        weight = member.head.weight_CD
        group = next(group for group in shared.param_groups if any(weight is one for one in group["params"]))
        content = {"state": {0: shared.state[weight]}, "param_groups": [{**group, "params": [0]}]}
        tensors, facts = optimizer_state(content)
        tensors["model.head.weight_CD"] = weight
        facts = {"key": member.job.key, "epoch": epoch, "history": member.history.records, "optimizer": facts}
        keep_checkpoint(member.job.stem, tensors, facts)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: StackedSubNetworks) -> None:  # type: ignore[override]
        wait(module.device)
        seconds, epoch = time.perf_counter() - self._start, trainer.current_epoch
        groups, losses = trainer.optimizers[0].param_groups, module.take_losses().tolist()
        for number, (member, loss) in enumerate(zip(self.members, losses, strict=True)):
            values = {
                "train/loss": loss / member.samples,
                "learning_rate": groups[number if len(groups) > 1 else 0]["lr"],
                "time/epoch_seconds": seconds * member.share,
                "time/samples_per_second": member.samples / (seconds * member.share),
                "memory/peak_mb": peak_memory_mb(module.device),
            }
            if member.val and (epoch + 1) % self.settings["check_val_every_n_epoch"] == 0:
                values |= _validate(member)
            member.error = member.error or divergence(values["train/loss"], epoch)
            member.history.log_metrics({"epoch": epoch, **values})
        if self.report:
            self.report(epoch + 1, trainer.max_epochs, values)


@torch.inference_mode()
def _validate(member: _Member) -> dict[str, float]:
    loss_sum = hits = count = 0.0
    with matmul_precision("highest"):
        for unit_BD, target_B, _ in member.val:
            output_BC = member.head(unit_BD)
            loss_sum += member.loss(output_BC, target_B).sum()
            hits += (output_BC.argmax(1) == target_B).sum()
            count += len(target_B)
    return {"val/loss": float(loss_sum) / count, "val/accuracy_percent": 100 * float(hits) / count}


def _publish(member: _Member) -> None:
    """Sends the history to the member's own dashboard run: one process can hold one such run open at a time."""
    tracking = instantiate(member.job.tracking)
    tracker = tracking.open(member.job)
    try:
        for record in member.history.records if tracker else ():
            values = {key: value for key, value in record.items() if key != "epoch"}
            tracker.log_metrics({**values, "epoch": record["epoch"]}, step=int(record["epoch"]))
        if tracker:
            tracker.finalize("success")
    finally:
        tracking.close()

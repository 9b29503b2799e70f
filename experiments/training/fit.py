# SPDX-License-Identifier: MIT
"""`fit` builds the Trainer for everything that is trained."""

import inspect
import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from pytorch_lightning import Callback, LightningDataModule, LightningModule
from pytorch_lightning.callbacks import StochasticWeightAveraging
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment

from callbacks.checkpoints import EpochCheckpoints, SafetensorsIO, newest_checkpoint
from callbacks.epoch_clock import EpochClock
from callbacks.finite import StopOnNonFinite
from callbacks.history import History
from callbacks.reporting import ReportEpoch
from datamodules.cluster_datamodule import ClusterDataModule
from experiments.command_line.trainer_arguments import OUR_KEYS
from experiments.training.job import EpochReport, Job
from lightning_modules.bundled_steps import bundle
from lightning_modules.sharded_head import ModelParallel
from lightning_modules.subnetwork import SubNetwork

log = logging.getLogger(__name__)

STEPS_PER_CALL = 16
# With these arguments of the Trainer a bundle of steps gives the result of single steps; any other makes steps single.
HARMLESS = (
    "max_epochs", "accelerator", "devices", "check_val_every_n_epoch", "enable_progress_bar", "enable_model_summary",
    "enable_checkpointing", "num_sanity_val_steps", "deterministic", "benchmark", "default_root_dir", "logger",
)  # fmt: skip
STEP_HOOKS = (
    "on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step",
)  # fmt: skip
MODULE_HOOKS = (*STEP_HOOKS, "configure_gradient_clipping", "optimizer_step", "lr_scheduler_step")


@dataclass(frozen=True)
class FitResult:
    """The result of a fit, without the weights.

    Attributes:
        history: logged values, one record per epoch.
        seconds: wall clock.
        is_global_zero: whether this process writes the files.
    """

    history: list[dict[str, float]]
    seconds: float
    is_global_zero: bool

    @property
    def facts(self) -> dict[str, Any]:
        """Entries of the record of a finished job; memory in MiB, the largest of all epochs."""
        peak_mb = max((record.get("memory/peak_mb", 0.0) for record in self.history), default=0.0)
        about = {"epochs": len(self.history), "seconds": self.seconds, "peak_memory_mb": peak_mb}
        return {**about, "history": self.history}


def fit(
    job: Job, module: LightningModule, data: LightningDataModule, report: EpochReport | None = None,
    callbacks: Sequence[Callback] = (), resume: bool = True,
) -> FitResult:  # fmt: skip
    """Trains a module by Lightning, with settings, tracking and checkpoint files of the job.

    Args:
        resume: whether to keep checkpoints and to go on from the newest.

    Raises:
        DivergenceError: the loss became NaN or infinite.
    """
    settings, started = job.recipe.trainer, time.perf_counter()
    if settings.get("threads"):
        torch.set_num_threads(settings["threads"])
    arguments = {name: value for name, value in settings.items() if name not in OUR_KEYS}
    if tried := int(arguments.pop("fast_dev_run", 0) or 0):
        # Lightning's own fast_dev_run removes the loggers, and one of them is the record of this fit.
        arguments |= {"max_epochs": 1, "limit_train_batches": tried, "limit_val_batches": tried}
        resume = False
    if isinstance(data, ClusterDataModule) and not len(data.val_split):
        arguments["limit_val_batches"] = 0
    # Lightning sets it to 1: then each step of an optimiser takes 0.2 ms to look for a GPU, otherwise 2 us.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    own = [instantiate(node) for node in job.recipe.callbacks.values()]
    steps = _steps_per_call(module, settings.get("steps_per_call", "auto"), arguments, own)
    if steps > 1 and isinstance(data, ClusterDataModule):
        bundle(module, data, steps, arguments.pop("limit_train_batches", None))
    # Under torchrun, rank 0 trains the networks of baselines alone.
    here = environment() if settings.get("devices", 1) > 1 else LightningEnvironment()
    tracking, history = instantiate(job.tracking), History()
    tracker = tracking.open(job) if here.global_rank() == 0 and not tried else None
    always: list[Callback] = [history, EpochClock(), StopOnNonFinite()] + ([ReportEpoch(report)] if report else [])
    resume = resume and arguments.pop("enable_checkpointing", True) is not False
    if resume:
        always.append(EpochCheckpoints(job.stem, settings.get("checkpoint_every_n_epochs", 1)))
    try:
        trainer = pl.Trainer(
            **{
                "num_sanity_val_steps": 0, "enable_progress_bar": False, "enable_model_summary": False, **arguments,
                **_devices(settings),
            },
            logger=[history] + ([tracker] if tracker else []),
            callbacks=[*callbacks, *own, *always],
            plugins=[here, SafetensorsIO(job.lineage)],
            enable_checkpointing=resume,
            use_distributed_sampler=False,  # IndexBatches deals to the ranks itself
        )  # fmt: skip
        # Callbacks may change the weights when a fit ends: then its last epoch is trained again.
        epochs = settings["max_epochs"] - bool(own)
        newest = newest_checkpoint(job.stem, job.lineage, epochs) if resume else None
        if newest is not None:
            log.info("%s goes on from %s", job.title, newest.name)
        trainer.fit(module, datamodule=data, ckpt_path=newest)
    except SystemExit:  # Lightning's way to answer Ctrl-C; it also leaves further ones ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
    finally:
        tracking.close()
    result = FitResult(history.records, time.perf_counter() - started, trainer.is_global_zero)
    # Trainer and module refer to each other, and Python seldom collects such circles: hundreds of fits in one process
    # would hold gigabytes.
    for optimizer in trainer.optimizers:
        optimizer.state.clear()
    return result


def environment() -> ClusterEnvironment:
    """The processes of torchrun, or one process; without it Lightning would read the variables of a SLURM job."""
    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()


def sharded(settings: dict[str, Any]) -> bool:
    """Whether several devices share the classes of one head."""
    return settings.get("strategy") == "model_parallel" and settings.get("devices", 1) > 1


def _devices(settings: dict[str, Any]) -> dict[str, Any]:
    if (devices := settings.get("devices", 1)) == 1:
        return {"devices": 1, "strategy": "auto"}
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", 1))
    strategy = ModelParallel() if sharded(settings) else settings.get("strategy", "auto")
    return {"devices": devices // nodes, "num_nodes": nodes, "strategy": strategy}


def _steps_per_call(module: LightningModule, asked: Any, arguments: dict[str, Any], callbacks: list[Callback]) -> int:
    if not isinstance(module, SubNetwork) or asked == 1:
        return 1
    if (reason := _why_single(module, arguments, callbacks)) is not None:
        log.info("one optimiser step per call of Lightning: %s", reason)
        return 1
    return STEPS_PER_CALL if asked == "auto" else int(asked)


def _why_single(module: SubNetwork, arguments: dict[str, Any], callbacks: list[Callback]) -> str | None:
    standard = inspect.signature(pl.Trainer).parameters
    for name, value in arguments.items():
        if name == "limit_train_batches" and isinstance(value, int):
            continue  # `bundle` counts steps
        if name not in HARMLESS and value != standard[name].default and (name, value) != ("limit_val_batches", 0):
            return f"trainer.{name} = {value}"
    if arguments.get("devices", 1) != 1:
        return "several devices"
    for callback in callbacks:
        kind = type(callback)
        looks = [hook for hook in STEP_HOOKS if getattr(kind, hook) is not getattr(Callback, hook)]
        if looks or isinstance(callback, StochasticWeightAveraging):  # which exchanges the scheduler
            return f"callback {kind.__name__}"
    for hook in MODULE_HOOKS:
        if getattr(type(module), hook) is not getattr(SubNetwork, hook):
            return f"{type(module).__name__}.{hook}"
    scheduler = module.make_scheduler
    if scheduler is not None and "total_steps" not in inspect.signature(scheduler).parameters:
        return "a scheduler that counts epochs"
    return None

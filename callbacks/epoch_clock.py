# SPDX-License-Identifier: MIT
"""Wall clock, throughput and peak memory of each training epoch."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class EpochClock(Callback):
    """Logs `time/epoch_seconds`, `time/samples_per_second` and `memory/peak_mb` once per training epoch.

    The clock runs from the first batch to the end of the last optimiser step on the device, without validation. Peak
    memory, in MiB, is that of the process since the epoch began, or of the CUDA allocator on a GPU.
    """

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        reset_peak_memory(module.device)
        wait(module.device)
        self._samples, self._start = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        seen = outputs["samples"] if isinstance(outputs, dict) and "samples" in outputs else len(batch[1])
        self._samples += seen * trainer.world_size
        if trainer.is_last_batch:
            wait(module.device)
            seconds = time.perf_counter() - self._start
            values = {"time/epoch_seconds": seconds, "time/samples_per_second": self._samples / seconds}
            values["memory/peak_mb"] = peak_memory_mb(module.device)
            module.log_dict(values, on_step=False, on_epoch=True, batch_size=1)


def wait(device: torch.device) -> None:
    """Waits until a GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device | str = "cpu") -> None:
    """Starts a new measurement of peak memory, if the kernel allows it."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device | str = "cpu") -> float:
    """Peak memory since the last reset in MiB: resident set of the process, or CUDA allocations of the device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if (peak := kernel_bytes("VmHWM")) is not None:
        return peak / 2**20
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def kernel_bytes(name: str, file: str = "/proc/self/status") -> int | None:
    """Bytes that a file of /proc states under a name; None if it does not."""
    with suppress(OSError):
        for line in Path(file).read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None

# SPDX-License-Identifier: MIT
"""Metrics for TensorBoard: event files in the run folder, with the names that W&B and CSV use."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger

from datamodules.errors import InputError
from experiments.runs.tracking import Tracking, result_tables, summary_values
from experiments.training.job import Job

EVENTS = "events.out.tfevents.*"


class TensorBoardTracking(Tracking):
    """Event files in `<run folder>/tensorboard`, one folder per sub-network and one named `summary`.

    `tensorboard --logdir <run folder>/tensorboard` shows them, with epochs as the horizontal axis.

    Raises:
        InputError: tensorboard is not installed.
    """

    def __init__(self):
        if find_spec("tensorboard") is None:
            raise InputError(
                "logger=tensorboard without the package tensorboard", "it installed",
                "pip install clusterface[tensorboard], or choose logger=csv",
            )  # fmt: skip

    def open(self, job: Job) -> Logger:
        """A TensorBoardLogger that writes `<run folder>/tensorboard/<title>`."""
        folder = "".join(letter if letter.isalnum() or letter in "=.-_" else "_" for letter in job.title)
        logger = _EpochLogger(Path(job.run_folder) / "tensorboard", name=folder, version="")
        _remove_events(Path(logger.log_dir))
        return logger

    def summarise(self, run: str, run_folder: Path, config: dict[str, Any], table: Any, figures: list[Path]) -> None:
        """Writes tables as text, figures as images, and `summary_values` as scalars into the folder `summary`."""
        import numpy as np
        from PIL import Image
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(run_folder) / "tensorboard" / "summary"
        _remove_events(folder)
        with SummaryWriter(str(folder)) as writer:
            for name, frame in result_tables(table).items():
                writer.add_text(f"tables/{name}", _markdown(frame))
            for figure in figures:
                with Image.open(figure) as picture:
                    writer.add_image(f"figures/{figure.stem}", np.asarray(picture.convert("RGB")), dataformats="HWC")
            for name, value in summary_values(table).items():
                writer.add_scalar(name, value)


class _EpochLogger(TensorBoardLogger):
    """Counts epochs instead of optimiser steps; `restore` repeats the epochs of an earlier process."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        super().log_metrics(values, int(metrics["epoch"]) if "epoch" in metrics else step)

    def restore(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            self.log_metrics(record)


def _remove_events(folder: Path) -> None:
    # TensorBoard shows all files of a folder as one run, so files of an earlier process would repeat epochs.
    for file in folder.glob(EVENTS):
        file.unlink(missing_ok=True)


def _markdown(frame: Any) -> str:
    cells = frame.astype(object).where(frame.notna(), "").values.tolist()
    shown = ((f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) for row in cells)
    rows = [frame.columns, ["---"] * frame.shape[1], *shown]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)

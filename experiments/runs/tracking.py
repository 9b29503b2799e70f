# SPDX-License-Identifier: MIT
"""Tracking: sends metrics to Weights & Biases, to CSV files, or nowhere."""

import hashlib
import logging
import netrc
import os
import shutil
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.loggers.logger import Logger

from datamodules.errors import InputError
from datamodules.files import read_sealed
from experiments.command_line.choices import short_name
from experiments.reporting.columns import column, metrics
from experiments.reporting.summary_table import summary_table
from experiments.training.job import Job

log = logging.getLogger(__name__)
REACHABLE_SECONDS = 10.0
LONGEST_TAG = 64  # characters; W&B refuses longer ones
TAGS = {"dataset": "{}", "n_identities": "N={}", "partitioner": "{}", "loss": "{}", "miner": "{}", "network": "{}"}


class Tracking(ABC):
    """One logger per sub-network, one summary per run."""

    @abstractmethod
    def open(self, job: Job) -> Logger | None:
        """A Lightning logger for the sub-network of a job, or None."""

    def close(self) -> None:  # noqa: B027 most trackings have nothing to close
        """Called after each fit, also after one that failed."""

    def summarise(  # noqa: B027 most trackings have no page for it
        self, run: str, run_folder: Path, config: dict[str, Any], table: Any, figures: list[Path]
    ) -> None:
        """Publishes the results of a finished run."""


class NoTracking(Tracking):
    """No tracking; the run folder has all values."""

    def open(self, job: Job) -> None:
        return None


class CSVTracking(Tracking):
    """One CSV file of metrics per sub-network under `<run folder>/csv`."""

    def open(self, job: Job) -> Logger:
        """A CSVLogger that writes `<run folder>/csv/<key>/<cluster>/metrics.csv`."""
        return _CSVLogger(Path(job.run_folder) / "csv", name=job.key, version=f"{job.cluster:05d}")


class _CSVLogger(CSVLogger):
    """Lightning's logger starts a new file; `restore` writes the epochs of an earlier process into it."""

    def restore(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            self.log_metrics(record, step=int(record["epoch"]))


class WandbTracking(Tracking):
    """Weights & Biases: one group per run, with one W&B run per sub-network and one of type "summary".

    It is online if there is a key (WANDB_API_KEY or ~/.netrc) and the server answers, or if WANDB_MODE says so. Else it
    is offline in the run folder; `wandb sync <run folder>/wandb/offline-run-*` sends it later. It never prompts.

    Args:
        entity: W&B user or team; None is the key's default.
        per_subnetwork: False opens no W&B run for a sub-network; the summary has `tables/subnetworks` in any case.
    """

    def __init__(
        self, project: str = "clusterface", entity: str | None = None, tags: list[str] | None = None,
        per_subnetwork: bool = True,
    ):  # fmt: skip
        self.project, self.entity, self.tags = project, entity, list(tags or [])
        self.per_subnetwork = per_subnetwork

    @property
    def mode(self) -> str:
        """WANDB_MODE if it is set; else "online" if there is a key and the server answers; else "offline"."""
        import wandb

        if mode := os.environ.get("WANDB_MODE"):
            return mode
        address = urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url)
        host, port = address.hostname or "", address.port or (80 if address.scheme == "http" else 443)
        return "online" if _has_key(host) and _answers(host, port) else "offline"

    def _init(self, run_folder: Path | str, **arguments: Any) -> Any:
        import wandb

        # System statistics and console capture would start threads for every small head.
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=60)
        where: dict[str, Any] = {"project": self.project, "entity": self.entity}
        where |= {"dir": str(run_folder), "settings": settings, **arguments}
        mode: Any = self.mode
        earlier = list(Path(run_folder).glob(f"wandb/offline-run-*-{arguments['id']}"))
        try:
            run = wandb.init(mode=mode, resume="allow" if mode == "online" else None, **where)
        except wandb.errors.Error as error:
            if mode != "online":
                raise
            # A refused key or a lost server must not end the training.
            log.warning("W&B: %s; this run is kept offline in the run folder", " ".join(str(error).split()))
            run = wandb.init(mode="offline", **where)
        if run.offline:
            # If two offline folders of one run were sent, one would overwrite the other; the new one repeats all.
            for folder in earlier:
                shutil.rmtree(folder, ignore_errors=True)
        return run

    def open(self, job: Job) -> Logger | None:
        """A WandbLogger with a W&B run of its own, whose id is the same after a resume."""
        if not self.per_subnetwork:
            return None
        import wandb

        wandb.finish()  # a second logger would use the W&B run that is open in this process
        run = self._init(
            job.run_folder, id=job.identifier, name=job.title, group=job.run, job_type="subnetwork",
            config=config_of(job),
            tags=[*self.tags, *tags_of(job.facts)],
        )  # fmt: skip
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")
        return _OfflineLogger(experiment=run) if run.offline else WandbLogger(experiment=run)

    def close(self) -> None:
        import wandb

        wandb.finish()

    def summarise(self, run: str, run_folder: Path, config: dict[str, Any], table: Any, figures: list[Path]) -> None:
        """Sends one W&B run of type "summary" with tables, figures, and `summary_values`."""
        # The agent of a W&B sweep waits for the run whose id it gave.
        swept = "WANDB_SWEEP_ID" in os.environ and os.environ.get("WANDB_RUN_ID")
        with self.published(run, run_folder, "summary", config, table, figures, name=run, id=swept or None):
            pass

    @contextmanager
    def published(
        self, run: str, run_folder: Path, job_type: str, config: dict[str, Any], table: Any, figures: list[Path],
        **settings: Any,
    ) -> Iterator[Any]:  # fmt: skip
        """Opens one W&B run in the group of a finished run, and logs tables, figures and `summary_values`.

        Args:
            job_type: "summary" or "report".
            **settings: `name` and `id` of the W&B run; without an id it is made from folder and type.

        Yields:
            The W&B run.
        """
        import wandb

        wandb.finish()
        known = hashlib.sha256(f"{run_folder}/{job_type}".encode()).hexdigest()[:16]
        opened = self._init(
            run_folder, id=settings.pop("id", None) or known, group=run, job_type=job_type, config=config,
            tags=[*self.tags, *tags_of(table)], **settings,
        )  # fmt: skip
        try:
            tables = result_tables(table).items()
            content: dict[str, Any] = {f"tables/{name}": as_wandb_table(frame) for name, frame in tables}
            if len(trained := subnetwork_table(run_folder)):
                content["tables/subnetworks"] = as_wandb_table(trained)
            content |= {f"figures/{figure.stem}": wandb.Image(str(figure)) for figure in figures}
            opened.log(content)
            opened.summary.update(summary_values(table))
            yield opened
        finally:
            wandb.finish()


def config_of(job: Job) -> dict[str, Any]:
    """Facts, data, split and recipe of a job as plain values, by which W&B groups runs: each choice has its name."""
    groups = {group: node for group, node in vars(job.recipe).items() if isinstance(node, dict) and "_target_" in node}
    return {
        **{group: short_name(group, node) for group, node in groups.items()}, **job.facts,
        "callbacks": ",".join(job.recipe.callbacks), "cluster": job.cluster, "seed": job.recipe.seed, "data": job.data,
        **{f"split.{key}": value for key, value in job.split.items()}, **job.recipe.trainer,
    }  # fmt: skip


def subnetwork_table(run_folder: Path) -> Any:
    """A pandas DataFrame with a row for each finished sub-network of a run folder: its facts and its last epoch."""
    rows = []
    for file in sorted(Path(run_folder).glob("subnetworks/*/?????.json")):
        with suppress(InputError):  # damaged: the run trains it again when it needs it
            record = read_sealed(file)
            last = record.pop("history", None) or [{}]
            plain = {key: value for key, value in record.items() if isinstance(value, (str, int, float))}
            rows.append(plain | {key: value for key, value in last[-1].items() if key != "epoch"})
    return pd.DataFrame(rows).drop(columns=["sha256", "digest"], errors="ignore")


def as_wandb_table(frame: Any) -> Any:
    """A pandas DataFrame as a table of W&B; missing values are None."""
    import wandb

    return wandb.Table(dataframe=frame.astype(object).where(frame.notna(), None))


def tags_of(facts: Any) -> list[str]:
    """Labels by which W&B filters runs, from the facts of a job or the table of a run.

    >>> tags_of({"dataset": "lfw", "n_identities": 800, "loss": "arcface", "cluster": 1})
    ['lfw', 'N=800', 'arcface']
    """
    found: list[str] = []
    for key, form in TAGS.items():
        values = [] if key not in facts else [facts[key]] if isinstance(facts[key], (str, int)) else facts[key].unique()
        found += [form.format(value) for value in values if isinstance(value, str) or value == value]
    return list(dict.fromkeys(tag[:LONGEST_TAG] for tag in found if tag))


class _OfflineLogger(WandbLogger):
    """`restore` repeats the epochs of an earlier process; online, W&B's server has them."""

    def restore(self, records: list[dict[str, float]]) -> None:
        for record in records:
            self.log_metrics(record)


def result_tables(table: Any) -> dict[str, Any]:
    """Tables to publish, by name: results.csv, and for a comparison its overview."""
    return {"summary": summary_table(table), "results": table} if "scenario" in table else {"results": table}


def summary_values(table: Any) -> dict[str, float]:
    """Means over seeds by `<metric>_<unit>/<row>`; a metric without a unit has only its name.

    With two seeds or more the sample standard deviation is beside each, as `<metric>_sd_<unit>/<row>`.

    Args:
        table: pandas DataFrame of results.csv. Of a comparison only the metrics are used, else every number.
    """
    columns = {one.name: one for one in metrics(table)}
    if "scenario" in table:
        groups = table.groupby(["n_identities", "scenario"])[list(columns)]
    else:
        keys = [key for key in ("dataset", "method", "loss") if key in table]
        numbers = table.drop(columns=[*keys, "seed"], errors="ignore").select_dtypes("number")
        groups = numbers.groupby([table[key] for key in keys], sort=False)
    values = {}
    for part, frame in (("", groups.mean()), ("_sd", groups.std(ddof=1))):
        for place, row in frame.iterrows():
            name = f"N={place[0]:.0f}/{place[1]}" if "scenario" in table else "/".join(np.atleast_1d(place))
            for metric, value in row.items():
                if not pd.isna(value):
                    values[f"{columns.get(metric, column(metric)).key(part)}/{name}"] = float(value)
    return values


@lru_cache(maxsize=4)
def _answers(host: str, port: int) -> bool:
    # Asked once per process, so that not every sub-network waits for a server that does not answer.
    try:
        socket.create_connection((host, port), timeout=REACHABLE_SECONDS).close()
    except OSError as error:
        log.warning("%s does not answer (%s): W&B runs are kept offline in the run folder", host, error)
        return False
    return True


def _has_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    for file in [named] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        with suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(str(file)).authenticators(host) is not None:
                return True
    return False

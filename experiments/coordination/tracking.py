# SPDX-License-Identifier: MIT
"""Where metrics go beside the run folder: Weights & Biases, CSV files, or nowhere."""

import hashlib
import logging
import math
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

from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.loggers.logger import Logger

from experiments.coordination.job import Job
from experiments.reporting.columns import column, metrics
from experiments.reporting.overview import overview

log = logging.getLogger(__name__)
REACHABLE_SECONDS = 10.0
LONGEST_TAG = 64  # characters; W&B refuses longer ones
TAGS = {"dataset": "{}", "n_identities": "N={}", "partitioner": "{}", "loss": "{}", "miner": "{}", "network": "{}"}


class Tracking(ABC):
    """One logger per sub-network, one summary per run."""

    @abstractmethod
    def open(self, job: Job) -> Logger | None:
        """A Lightning logger for the sub-network of a job, or None."""

    def close(self) -> None:  # noqa: B027 most trackings have nothing to end
        """Ends what `open` began; called after each fit, successful or not."""

    def summarise(  # noqa: B027 most trackings have no page to publish it on
        self, run: str, run_folder: Path, config: dict[str, Any], table: Any, figures: list[Path]
    ) -> None:
        """Publishes the finished comparison."""


class NoTracking(Tracking):
    """Tracks nothing; the run folder has it all."""

    def open(self, job: Job) -> None:
        return None


class CSVTracking(Tracking):
    """One CSV file of metrics per sub-network under `<run folder>/csv`."""

    def open(self, job: Job) -> Logger:
        """A CSVLogger that writes `<run folder>/csv/<key>/<cluster>/metrics.csv`."""
        return _CSVLogger(Path(job.run_folder) / "csv", name=job.key, version=f"{job.cluster:05d}")


class _CSVLogger(CSVLogger):
    """Lightning's starts its file anew; this one first repeats what an earlier process had logged."""

    def restore(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            self.log_metrics(record, step=int(record["epoch"]))


class WandbTracking(Tracking):
    """Weights & Biases: one group per run, one W&B run per sub-network, one of type "summary" for the comparison.

    Online where a key is found (WANDB_API_KEY or ~/.netrc) and the server answers, or WANDB_MODE says so; else offline
    in the run folder, never a prompt. An offline run is sent later with `wandb sync <run folder>/wandb/offline-run-*`.

    Args:
        entity: W&B user or team; None is the key's default.
    """

    def __init__(self, project: str = "clusterface", entity: str | None = None, tags: list[str] | None = None):
        self.project, self.entity, self.tags = project, entity, list(tags or [])

    @property
    def mode(self) -> str:
        """What WANDB_MODE asks for; else online where there is a key and its server answers; else offline."""
        return os.environ.get("WANDB_MODE") or _mode_here()

    def _init(self, run_folder: Path | str, **arguments: Any) -> Any:
        import wandb

        # System statistics and console capture start threads per run, and one run is one small head.
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
            # A refused key or a server that went away must not cost the training.
            log.warning("W&B: %s; this run is kept offline in the run folder", " ".join(str(error).split()))
            run = wandb.init(mode="offline", **where)
        if run.offline:
            # Two offline folders of one run would overwrite each other when they are sent: the new one repeats all.
            for folder in earlier:
                shutil.rmtree(folder, ignore_errors=True)
        return run

    def open(self, job: Job) -> Logger:
        """A WandbLogger on a run of its own, in the group of the comparison, with an id that survives a resume."""
        import wandb

        wandb.finish()  # a second logger would join the run that is open in this process
        recipe = {"loss": job.recipe.loss, "init": job.recipe.init, "optimizer": job.recipe.optimizer}
        run = self._init(
            job.run_folder, id=job.identifier, name=job.title, group=job.run, job_type="subnetwork",
            config={**job.facts, "cluster": job.cluster, "seed": job.recipe.seed, **recipe, **job.recipe.trainer},
            tags=[*self.tags, *tags_of(job.facts)],
        )  # fmt: skip
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")
        return _OfflineLogger(experiment=run) if run.offline else WandbLogger(experiment=run)

    def close(self) -> None:
        import wandb

        wandb.finish()

    def summarise(self, run: str, run_folder: Path, config: dict[str, Any], table: Any, figures: list[Path]) -> None:
        """One W&B run of type "summary": the tables, the figures, and `summary_values`."""
        # An agent of a W&B sweep waits for the run whose id it handed out.
        swept = "WANDB_SWEEP_ID" in os.environ and os.environ.get("WANDB_RUN_ID")
        with self.published(run, run_folder, "summary", config, table, figures, name=run, id=swept or None):
            pass

    @contextmanager
    def published(
        self, run: str, run_folder: Path, job_type: str, config: dict[str, Any], table: Any, figures: list[Path],
        **settings: Any,
    ) -> Iterator[Any]:  # fmt: skip
        """Opens one W&B run in the group of a finished run, logs what every such run has, and ends it afterwards.

        Args:
            job_type: "summary" or "report".
            **settings: `name` and, unless None, `id` of the W&B run; one made of folder and type is the same each time.

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
            tables = {"summary": overview(table), "results": table} if "scenario" in table else {"results": table}
            content: dict[str, Any] = {f"tables/{name}": as_wandb_table(frame) for name, frame in tables.items()}
            content |= {f"figures/{figure.stem}": wandb.Image(str(figure)) for figure in figures}
            opened.log(content)
            opened.summary.update(summary_values(table))
            yield opened
        finally:
            wandb.finish()


def as_wandb_table(frame: Any) -> Any:
    """A pandas DataFrame as W&B shows it, empty cells empty."""
    import wandb

    return wandb.Table(dataframe=frame.astype(object).where(frame.notna(), None))


def tags_of(facts: Any) -> list[str]:
    """Labels by which W&B filters runs: data set, N, and how it was trained.

    Args:
        facts: of a job, or the table of a run; each value of a column becomes a label.

    >>> tags_of({"dataset": "lfw", "n_identities": 800, "loss": "arcface", "cluster": 1})
    ['lfw', 'N=800', 'arcface']
    """
    found: list[str] = []
    for key, form in TAGS.items():
        values = [] if key not in facts else [facts[key]] if isinstance(facts[key], (str, int)) else facts[key].unique()
        found += [form.format(value) for value in values if isinstance(value, str) or value == value]
    return list(dict.fromkeys(tag[:LONGEST_TAG] for tag in found if tag))


class _OfflineLogger(WandbLogger):
    """On a resume it repeats the epochs of the process before; online, W&B's server has them."""

    def restore(self, records: list[dict[str, float]]) -> None:
        for record in records:
            self.log_metrics(record)


def summary_values(table: Any) -> dict[str, float]:
    """Means over seeds, from `<metric>_<unit>/<row>` to value; metrics without a unit keep their name.

    Args:
        table: pandas DataFrame of results.csv; of a comparison the metrics are taken, else every number.
    """
    columns = {one.name: one for one in metrics(table)}
    if "scenario" in table:
        means = table.groupby(["n_identities", "scenario"])[list(columns)].mean()
        named = {f"N={n:.0f}/{scenario}": row for (n, scenario), row in means.iterrows()}
    else:
        keys = [key for key in ("dataset", "method", "loss") if key in table]
        numbers = table.drop(columns=[*keys, "seed"], errors="ignore").select_dtypes("number")
        means = numbers.groupby([table[key] for key in keys], sort=False).mean()
        named = {"/".join(name if isinstance(name, tuple) else (name,)): row for name, row in means.iterrows()}
    return {
        f"{columns.get(metric, column(metric)).key()}/{name}": float(value)
        for name, row in named.items()
        for metric, value in row.items()
        if not math.isnan(value)
    }


def _mode_here() -> str:
    import wandb

    address = urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url)
    if not _has_key(address.hostname or ""):
        return "offline"
    port = address.port or (80 if address.scheme == "http" else 443)
    return "online" if _answers(address.hostname or "", port) else "offline"


@lru_cache(maxsize=4)
def _answers(host: str, port: int) -> bool:
    # Asked once per process: a server that does not answer must not cost a wait per sub-network.
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

# SPDX-License-Identifier: MIT
"""Run folder of a command that finishes in one go: it appears whole, or not at all, and is never made twice."""

import hashlib
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from datamodules.errors import InputError
from datamodules.files import atomic_folder, write_json, write_text
from experiments.reporting.report import write_simple_report
from experiments.reporting.wording import any_number

_PACKAGES = ("torch", "scikit-learn", "numpy")
_NOT_WORK = ("name", "runs_dir", "logger")  # keys that change where results go, not the results


def run_folder(cfg: DictConfig, command: str) -> Path:
    """`<runs_dir>/<name>`; without a name one made of the command and a hash of the configuration.

    Args:
        cfg: with the keys runs_dir and name.
        command: such as "verify".
    """
    digest = hashlib.sha256(_work(OmegaConf.to_yaml(cfg, resolve=True)).encode()).hexdigest()[:8]
    return Path(cfg.runs_dir).expanduser() / (cfg.name or f"{command}-{digest}")


def finished(folder: Path, cfg: DictConfig) -> bool:
    """Whether a run folder already holds the results of this configuration.

    Args:
        folder: the run folder.
        cfg: the composed configuration.

    Raises:
        InputError: the folder holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    config = folder / "config.yaml"
    there = config.read_text(encoding="utf-8") if config.is_file() and (folder / "results.csv").is_file() else ""
    if _work(there) != _work(OmegaConf.to_yaml(cfg, resolve=True)):
        raise InputError(f"{folder}, which holds another run", "a new folder", "set name, or remove the folder")
    return True


@contextmanager
def whole_run(folder: Path, cfg: DictConfig, command: str) -> Iterator["WholeRun"]:
    """Gives a temporary run folder that takes the place of `folder` when the block ends without an error.

    Args:
        folder: where the run shall be.
        cfg: the composed configuration, written as config.yaml.
        command: such as "verify".
    """
    with atomic_folder(folder) as temporary:
        write_text(temporary / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        yield WholeRun(temporary, command, int(cfg.get("seed", 0)))


class WholeRun:
    """What a command writes into its run folder.

    Args:
        folder: the temporary folder.
        command: such as "verify".
        seed: of the run.
    """

    def __init__(self, folder: Path, command: str, seed: int):
        self.folder = folder
        self.facts: dict[str, Any] = {
            "command": command,
            "seed": seed,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            "versions": {name: version(name) for name in _PACKAGES},
        }

    def finish(
        self,
        results: pd.DataFrame,
        title: str,
        verdict: str,
        tables: Mapping[str, pd.DataFrame],
        figures: Mapping[str, Any],
        **facts: Any,
    ) -> None:
        """Writes results.csv, manifest.json, report.md, report.html and figures.

        Args:
            results: the rows of results.csv.
            title: heading of the report.
            verdict: the finding in one sentence.
            tables: from caption to table, for the report.
            figures: from caption to a figure of matplotlib.
            **facts: what else to note in manifest.json: where the data come from, their fingerprint.
        """
        write_text(self.folder / "results.csv", results.to_csv(index=False))
        write_json(self.folder / "manifest.json", {**self.facts, **facts})
        write_simple_report(self.folder, title, verdict, tables, figures, {**self.facts, **facts})


def show(folder: Path, columns: list[str]) -> None:
    """Prints the main columns of results.csv, one row each, and where the report lies.

    Args:
        folder: a finished run folder.
        columns: which columns; those that the file lacks are passed over.
    """
    results = pd.read_csv(folder / "results.csv")
    table = Table(box=None, pad_edge=False)
    chosen = [column for column in columns if column in results]
    for column in chosen:
        table.add_column(column, justify="left" if results[column].dtype.kind not in "if" else "right")
    for _, row in results[chosen].iterrows():
        table.add_row(*(Text(_cell(column, value)) for column, value in row.items()))
    console = Console()
    console.print(table)
    console.print(f"report: {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def _cell(column: str, value: Any) -> str:
    return value if isinstance(value, str) else any_number(column, float(value))


def _work(config: str) -> str:
    parsed = OmegaConf.to_container(OmegaConf.create(config))
    kept = {key: value for key, value in parsed.items() if key not in _NOT_WORK} if isinstance(parsed, dict) else {}
    return OmegaConf.to_yaml(OmegaConf.create(kept))

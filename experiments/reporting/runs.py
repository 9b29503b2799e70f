# SPDX-License-Identifier: MIT
"""A run folder as the report sees it, and several of them merged into one."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from datamodules.files import read_json, sha256, write_json, write_text
from experiments.reporting.columns import ADDED, LABELS, MEASURED, TABLE, from_rows
from experiments.reporting.reading import DETAILS, read_csv, results_schema


@dataclass(frozen=True)
class Run:
    """What a run folder holds for the report.

    Args:
        results: the rows of results.csv; `run` names the run of each row ("" unless the folder is a merger), and
            `columns.added` gives the columns of further metrics.
        details: the tables that the run has of `reading.DETAILS`.
        manifest: manifest.json as read, {} where absent.
        config: the text of config.yaml, "" where absent.
    """

    results: pd.DataFrame
    details: dict[str, pd.DataFrame] = field(default_factory=dict)
    manifest: dict = field(default_factory=dict)
    config: str = ""


def unique_rows(results: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Drops rows that repeat another one in every column but `run` and what a clock measured; refuses contradictions.

    Runs of a sweep have scenarios in common that the swept choice does not touch: the same answers, other seconds.

    Args:
        results: rows of results.csv with the column `run`.

    Returns:
        The rows that remain, and how many were dropped.

    Raises:
        InputError: two rows of the same data set, N, scenario, setting and seed differ.
    """
    clocked = {column.name for column in MEASURED}
    stated = [column for column in results if column != "run" and column not in clocked]
    kept = results.drop_duplicates(stated, ignore_index=True)
    twice = kept[kept.duplicated([column.name for column in LABELS], keep=False)]
    if len(twice):
        first = twice.iloc[0]
        runs = " and ".join(sorted({name for name in twice["run"] if name})) or "one file"
        raise InputError(
            f"{len(twice)} rows that contradict each other, from {runs}: {first['scenario']} on {first['dataset']}, "
            f"N = {first['n_identities']:.0f}, seed {first['seed']:.0f}",
            "each data set, N, scenario, setting and seed once",
            "leave out one of the runs, or run other seeds",
        )
    return kept, len(results) - len(kept)


def read_run(folder: Path | str) -> Run:
    """Reads a run folder.

    Args:
        folder: `<runs_dir>/<name>`; results.csv must be there, everything else is optional.

    Raises:
        InputError: no such folder, or a file in it that cannot be used (see `read_csv`).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}", "a run folder with results.csv", "check the path")
    paths = {name: folder / "details" / f"{name}.csv" for name in DETAILS}
    details = {name: read_csv(path, DETAILS[name]) for name, path in paths.items() if path.exists()}
    added = from_rows(details["columns"].to_dict("records")) if "columns" in details else ()
    results = read_csv(folder / "results.csv", results_schema((*TABLE, *added)))
    if "run" not in results:
        results["run"] = ""
    results, _ = unique_rows(results)
    results.attrs[ADDED] = added
    return Run(
        results=results,
        details=details,
        manifest=read_json(folder / "manifest.json") if (folder / "manifest.json").exists() else {},
        config=_text(folder / "config.yaml"),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}, unreadable ({error})", "a text file in UTF-8", "restore the file") from None


def _labels(folders: list[Path]) -> list[str]:
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def merge_runs(folders: list[Path], out: Path) -> int:
    """Writes the run folder `out` that holds the rows and details of several runs.

    Rows that repeat another in every column are dropped; rows that contradict one are refused. `results.csv` gets one
    more column, `run`, by which speed-ups stay within the run (and so the machine) that measured them.

    Args:
        out: an existing empty folder.

    Returns:
        How many repeated rows were dropped.

    Raises:
        InputError: a folder is named twice or cannot be read, or rows contradict each other.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("the same run folder twice", "each once", "name every run folder once")
    labels = _labels(folders)
    runs = dict(zip(labels, map(read_run, folders), strict=True))
    results, dropped = unique_rows(pd.concat([_named(run.results, label) for label, run in runs.items()]))
    _write_csv(out / "results.csv", results)
    for name in DETAILS:
        parts = [_named(run.details[name], label) for label, run in runs.items() if name in run.details]
        if parts:
            (out / "details").mkdir(exist_ok=True)
            _write_csv(out / "details" / f"{name}.csv", pd.concat(parts))
    manifest = {
        "merged_from": {
            label: {
                "folder": str(folder),
                "rows": len(runs[label].results),
                "results_sha256": sha256(folder / "results.csv"),
                "manifest": runs[label].manifest,
            }
            for label, folder in zip(labels, folders, strict=True)
        },
        "repeated_rows_dropped": dropped,
    }
    write_json(out / "manifest.json", manifest)
    configs = [f"--- # of the run {json.dumps(label)}\n{run.config}" for label, run in runs.items() if run.config]
    if configs:
        write_text(out / "config.yaml", "\n".join(configs))
    return dropped


def _named(frame: pd.DataFrame, label: str) -> pd.DataFrame:
    inner = frame["run"] if "run" in frame else pd.Series("", index=frame.index)
    return frame.assign(run=[f"{label}/{name}" if name else label for name in inner])


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    whole = [c for c in frame.select_dtypes("number") if (frame[c].dropna() % 1 == 0).all()]
    write_text(path, frame.astype(dict.fromkeys(whole, "Int64")).to_csv(index=False))

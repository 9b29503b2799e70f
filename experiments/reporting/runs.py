# SPDX-License-Identifier: MIT
"""Reads a run folder for the report, and merges several run folders into one."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from datamodules.errors import InputError
from datamodules.files import read_json, sha256, write_json, write_text
from experiments.reporting.columns import ADDED, LABELS, MEASURED, SAMPLES, TABLE, from_rows
from experiments.reporting.reading import DETAILS, read_csv, results_schema


@dataclass(frozen=True)
class Run:
    """The content of a run folder that the report shows; manifest and config are empty if absent.

    In `results`, the rows of results.csv, `run` names the run of each row ("" unless runs were merged) and
    `data_fingerprint` its data set ("" if unknown); `columns.added` gives the columns of added metrics.
    """

    results: pd.DataFrame
    details: dict[str, pd.DataFrame] = field(default_factory=dict)  # those of `reading.DETAILS` that the run has
    manifest: dict = field(default_factory=dict)
    config: str = ""


def unique_rows(results: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Drops rows that repeat another one in every label and metric; returns the others and how many were dropped.

    Runs of a sweep share scenarios that the swept choice does not touch: their scores are equal, their times are not.

    Raises:
        InputError: two rows of the same data set, N, scenario, setting and seed differ.
    """
    ignored = {"run", "data_fingerprint", *(column.name for column in (*MEASURED, *SAMPLES))}
    kept = results.drop_duplicates(results.columns.difference(list(ignored)), ignore_index=True)
    labels = [column.name for column in LABELS] + [name for name in ["setting"] if name in kept]
    twice = kept[kept.duplicated(labels, keep=False)]
    if len(twice):
        first = twice.iloc[0]
        runs = " and ".join(sorted({name for name in twice["run"] if name})) or "one file"
        place = f"{first['scenario']} on {first['dataset']}, N = {first['n_identities']:.0f}, seed {first['seed']:.0f}"
        got = f"{len(twice)} rows that contradict each other, from {runs}: {place}"
        cure = "leave out one of the runs, or run other seeds"
        raise InputError(got, "each data set, N, scenario, setting and seed once", cure)
    return kept, len(results) - len(kept)


def read_run(folder: Path | str) -> Run:
    """Reads a run folder; only results.csv must be there.

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
    manifest = read_json(folder / "manifest.json") if (folder / "manifest.json").exists() else {}
    results, _ = unique_rows(results)
    results["data_fingerprint"] = results["run"].map(_data_fingerprints(manifest)).fillna("")
    results.attrs[ADDED] = added
    return Run(results, details, manifest, config_text(folder))


def _data_fingerprints(manifest: dict, run: str = "") -> dict[str, str]:
    """The fingerprint of the data set of each run, by the names that the column `run` gives merged runs."""
    found = {run: str(manifest.get("data_fingerprint", ""))}
    for label, part in manifest.get("merged_from", {}).items():
        found |= _data_fingerprints(part.get("manifest", {}), f"{run}/{label}" if run else label)
    return found


def config_text(folder: Path) -> str:
    """The text of config.yaml, "" if absent."""
    path = folder / "config.yaml"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def merge_runs(folders: list[Path], out: Path) -> int:
    """Writes several runs into an existing empty run folder `out`; returns how many repeated rows were dropped.

    `results.csv` gets one more column, `run`, so that a speed-up compares seconds of one machine.

    Raises:
        InputError: a folder is named twice or cannot be read, or rows contradict each other.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("the same run folder twice", "each once", "name every run folder once")
    names = [folder.resolve().name for folder in folders]
    labels = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    runs = dict(zip(labels, map(read_run, folders), strict=True))
    settings = differing_setting([run.config for run in runs.values()])
    parts = [_named(run.results, label) for label, run in runs.items()]
    if any(settings):  # rows that nothing was trained for do not depend on it
        parts = [rows.assign(setting=rows["loss"].map(lambda loss, own=own: own if loss else ""))
                 for rows, own in zip(parts, settings, strict=True)]  # fmt: skip
    results, dropped = unique_rows(pd.concat(parts))
    _write_csv(out / "results.csv", results.drop(columns="data_fingerprint"))
    for name in DETAILS:
        parts = [_named(run.details[name], label) for label, run in runs.items() if name in run.details]
        if parts:
            (out / "details").mkdir(exist_ok=True)
            _write_csv(out / "details" / f"{name}.csv", pd.concat(parts))
    merged = {
        label: {
            "folder": str(folder), "rows": len(run.results), "results_sha256": sha256(folder / "results.csv"),
            "manifest": run.manifest,
        }
        for (label, run), folder in zip(runs.items(), folders, strict=True)
    }  # fmt: skip
    write_json(out / "manifest.json", {"merged_from": merged, "repeated_rows_dropped": dropped})
    configs = [f"--- # of the run {json.dumps(label)}\n{run.config}" for label, run in runs.items() if run.config]
    if configs:
        write_text(out / "config.yaml", "\n".join(configs))
    return dropped


def merged_from(folder: Path) -> set[str]:
    """The run folders of which a run folder was merged, resolved; empty if it was not."""
    file = folder / "manifest.json"
    parts = read_json(file).get("merged_from", {}) if file.is_file() else {}
    return {str(Path(part["folder"]).resolve()) for part in parts.values()}


# Parts of a configuration that other columns of results.csv show, or on which no result depends.
_SHOWN = (
    "name", "runs_dir", "launcher", "logger", "seeds", "scenarios", "metrics", "n_identities", "n_subnets", "data",
    "partitioner", "loss", "init",
)  # fmt: skip


def differing_setting(configs: list[str]) -> list[str]:
    """The only value in which the configurations of some runs differ beside what results.csv shows, as `key=value`.

    Empty texts if they differ in none or in several, or if a run has no configuration.
    """
    try:
        documents = [list(yaml.safe_load_all(text)) for text in configs]
    except yaml.YAMLError:
        return [""] * len(configs)
    # A run that was merged itself has several configurations.
    flat = [_flat(one[0]) if len(one) == 1 and isinstance(one[0], dict) else {} for one in documents]
    keys = {key for one in flat for key in one if key.partition(".")[0] not in _SHOWN}
    differing = [key for key in sorted(keys) if len({repr(one.get(key)) for one in flat}) > 1]
    if len(differing) != 1 or not all(flat):
        return [""] * len(flat)
    return [f"{differing[0]}={one.get(differing[0])}" for one in flat]


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(content, dict):
        return {k: v for key, value in content.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): content}


def _named(frame: pd.DataFrame, label: str) -> pd.DataFrame:
    inner = frame["run"] if "run" in frame else pd.Series("", index=frame.index)
    return frame.assign(run=[f"{label}/{name}" if name else label for name in inner])


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    whole = [c for c in frame.select_dtypes("number") if (frame[c].dropna() % 1 == 0).all()]
    write_text(path, frame.astype(dict.fromkeys(whole, "Int64")).to_csv(index=False))

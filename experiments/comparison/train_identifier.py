# SPDX-License-Identifier: MIT
"""experiments.train: one scenario, trained or taken from a finished comparison, as an Identifier."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from datamodules.errors import InputError
from datamodules.splits import split_identities
from experiments.command_line.stage_timer import Stages
from experiments.command_line.terminal import LINE, notes, results
from experiments.comparison.coordinator import Cell, Coordinator
from experiments.comparison.data import as_sizes, check_testable, dataset_name, open_data, subnets_for
from experiments.comparison.failures import failure_table
from experiments.comparison.finished_run import FinishedRun
from experiments.comparison.metrics import load_metrics, new_metrics
from experiments.comparison.rows import scenario_of_row
from experiments.reporting.columns import METRICS
from experiments.reporting.number_formats import measured
from experiments.runs.run_folder import RunFolder, run_name
from experiments.training.progress import Progress
from lightning_modules.evaluation import evaluate, index_agreement
from lightning_modules.open_set import check_fpir, threshold_at_fpir


def train_identifier(cfg: DictConfig) -> int:
    """Trains, evaluates and saves an Identifier; returns 1 if a sub-network failed.

    Raises:
        InputError: the configuration cannot be used, or the folder of the Identifier exists.
    """
    console, stages = results(), Stages(Progress(notes(), {}))
    finished = FinishedRun(cfg) if cfg.run else None
    cfg = finished.cfg if finished else cfg
    scenario, index = scenario_of_row(cfg.scenario.name, cfg), instantiate(cfg.index)
    further = load_metrics(cfg.metrics)
    sizes = as_sizes(cfg.n_identities, "n_identities")
    with stages.stage("data"):
        data = open_data(cfg, finished.sizes if finished else sizes)
    (n,) = sizes or [data.n_identities - round(data.n_identities * cfg.split.held_out)]
    cell = Cell(n, subnets_for([n], cfg.n_subnets)[0], cfg.seed)
    check_testable(data, cfg.split, [n], cfg.seed)
    n_unknown = len(split_identities(data, n, cfg.seed, **cfg.split).unknown)
    if n_unknown:
        check_fpir(cfg.fpir, n_unknown)
    folder = Path(cfg.run or Path(cfg.runs_dir) / (cfg.name or run_name("train", dataset_name(data), cfg)))
    out = Path(cfg.out) if cfg.out else folder / "identifier"
    if out.exists():
        raise InputError(f"{out}, which exists", "a new folder", "choose another out= or name=, or remove it")

    with finished or RunFolder(folder, cfg) as run:
        with stages.stage("splits and class means"):
            coordinator = Coordinator(run, data, cfg, notes())
            splits = coordinator.data(cell).splits
        stages.progress = coordinator.progress
        notes().print(f"{folder}: {scenario.title}, N = {n}, m = {cell.n_subnets}, seed {cfg.seed}", **LINE)
        if finished:
            finished.check(coordinator, cell, scenario)
        with stages.stage("partition"):
            coordinator.partition(cell, scenario)
        with stages.stage("training"):
            failed = {} if finished else coordinator.train_missing([(cell, scenario)])
        if failed:
            console.print(failure_table(failed))
            return 1
        with stages.stage("assembly"):
            exact = coordinator.identifier(cell, scenario)
            identifier = exact.with_index(index)
        threshold = None
        if len(splits.unknown):
            with stages.stage("threshold"):
                scores = identifier.identify(data.embeddings[splits.unknown.rows]).score
            threshold = threshold_at_fpir(scores, cfg.fpir)
            named = int((scores >= threshold).sum())
            identifier = replace(identifier, threshold=threshold)
        with stages.stage("evaluation"):
            values, _ = evaluate(identifier, data, splits.test, new_metrics(further))
        with stages.stage("saving"):
            identifier.save(out)
        with stages.stage("agreement of the index"):
            agreement = index_agreement(exact, identifier, data, splits.test)
        run.note_files(*sorted(out.iterdir()))

    columns = {column.name: column for column in (*METRICS, *further)}
    shown = ", ".join(f"{name} {measured(columns[name], value)}" for name, value in values.items())
    console.print(f"{len(splits.test)} test probes: {shown}", **LINE)
    if agreement is not None:
        console.print(f"index: {agreement:.2f} % of them answered as without it", **LINE)
    if threshold is not None:
        accepted = identifier.identify(data.embeddings[splits.test.rows])
        missed = 100 * np.mean(accepted.index != splits.test.labels)
        console.print(
            f"threshold {threshold:.4f}, set for an FPIR of {100 * cfg.fpir:g} %: {named} of {len(splits.unknown)} "
            f"probes of unknown people get a name, {missed:.2f} % of the test probes do not get the right one", **LINE,
        )  # fmt: skip
    notes().print(str(stages), **LINE)
    console.print(f"identifier: {out}", **LINE)
    return 0

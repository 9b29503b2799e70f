# SPDX-License-Identifier: MIT
"""experiments.train: one scenario, trained or taken from a finished comparison, as an Identifier."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from datamodules.class_means import class_means
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Splits, split_identities
from experiments.command_line.stage_timer import Stages
from experiments.command_line.terminal import LINE, notes, results
from experiments.comparison.coordinator import Cell, Coordinator, fit_identifier, refitted
from experiments.comparison.data import as_sizes, check_testable, dataset_name, open_data, subnets_for
from experiments.comparison.failures import failure_table
from experiments.comparison.finished_run import FinishedRun
from experiments.comparison.metrics import load_metrics, new_metrics
from experiments.comparison.rows import scenario_of_row
from experiments.reporting.columns import METRICS
from experiments.reporting.number_formats import measured
from experiments.runs.run_folder import RunFolder, run_name
from experiments.training.progress import Progress
from lightning_modules.enrolment import with_identities
from lightning_modules.evaluation import evaluate, index_agreement
from lightning_modules.identifier import Identifier, check_replaceable
from lightning_modules.open_set import check_fpir, threshold_at_fpir


def train_identifier(cfg: DictConfig) -> int:
    """Trains, evaluates and saves an Identifier; returns 1 if a sub-network failed.

    Raises:
        InputError: the configuration cannot be used, or the folder of the Identifier exists.
    """
    console, stages = results(), Stages(Progress(notes(), {}))
    finished = FinishedRun(cfg) if cfg.run else None
    cfg = finished.cfg if finished else cfg
    again = f",refit={cfg.refit}" if cfg.refit and not finished else ""  # of a finished run the row says it
    scenario, index = scenario_of_row(cfg.scenario.name + again, cfg), instantiate(cfg.index)
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
    if cfg.overwrite:
        check_replaceable(out)
    elif out.exists():
        raise InputError(f"{out}, which exists", "a new folder", "choose another out= or name=, or say overwrite=true")

    with finished or RunFolder(folder, cfg) as run:
        with stages.stage("splits and class means"):
            coordinator = Coordinator(run, data, cfg, notes())
            splits = coordinator.data(cell, scenario.refit).splits
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
        with stages.stage("agreement of the index"):
            agreement = index_agreement(exact, identifier, data, splits.test)
        saved, told = identifier, list[str]()
        if len(splits.unknown):
            with stages.stage("enrolment of the held-out people"):
                saved, told = enrol_held_out(identifier, data, splits, cfg, scenario.refit)
        tested = {"probes": len(splits.test), **{k: float(v) for k, v in values.items() if v is not None}}
        noted = {"test": tested} if threshold is None else {"test": tested, "fpir": float(cfg.fpir)}
        saved = replace(saved, provenance={**saved.provenance, **noted})
        with stages.stage("saving"):
            saved.save(out, cfg.overwrite)
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
    if undrawn := data.n_identities - splits.n_identities - len(np.unique(data.labels[splits.unknown.rows])):
        told.append(f"left out: {undrawn:,} people of the data set, by n_identities={n}")
    for line in told:
        console.print(line, **LINE)
    console.print(f"identifier of {len(saved.identities):,} people: {out}", **LINE)
    return 0


def enrol_held_out(
    identifier: Identifier, data: EmbeddingSet, splits: Splits, cfg: DictConfig, refit: bool
) -> tuple[Identifier, list[str]]:
    """The identifier that also knows the held-out people, if `cfg.enrol_held_out` and if it can, and what to tell."""
    k, everybody = splits.n_identities, splits.with_held_out(data.labels)
    names = [data.identities[label] for label in everybody.enrolled[k:]]
    some = ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
    if not cfg.enrol_held_out:
        return identifier, [f"left out: {len(names):,} held-out people (enrol_held_out=false): {some}"]
    try:
        means_QD = class_means(data.embeddings, everybody.train, everybody.n_identities)[k:]
        made = with_identities(identifier, names, torch.from_numpy(means_QD))
        if made.decision.needs_fit and refit:
            made = refitted(made, identifier, TrainingSamples(data.embeddings, everybody.train))
        elif made.decision.needs_fit:
            made = fit_identifier(made, data, everybody, cfg.seed)
    except InputError as error:
        return identifier, [f"left out: {len(names):,} held-out people (no {error.got}; {error.cure}): {some}"]
    made = replace(made, provenance={**made.provenance, "held_out_enrolled": True})
    hits = made.identify(data.embeddings[splits.test.rows]).index == splits.test.labels
    return made, [
        f"{len(names):,} held-out people are enrolled too, after the threshold was set: {some}",
        f"with them {100 - 100 * np.mean(hits):.2f} % of the test probes do not get the right name",
    ]

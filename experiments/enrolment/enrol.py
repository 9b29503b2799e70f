# SPDX-License-Identifier: MIT
"""The work of experiments.enrol: a changed identifier, whole or not at all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.table import Table

from datamodules.sources.image_folder import ImageFolder
from datamodules.splits import Split
from experiments.command_line.terminal import LINE, notes, results
from experiments.enrolment.newcomers import Enrolled, Newcomers, read_newcomers
from experiments.enrolment.original import Original, open_original
from experiments.enrolment.request import as_names, target_of
from experiments.enrolment.retraining import check_retrainable, fit_again, retrain_changed
from experiments.extraction.left_out import folders_left_out, show_left_out
from lightning_modules.enrolment import with_class_means, with_identities, without_identities
from lightning_modules.identifier import PROBES_AT_ONCE, Identifier, check_replaceable


def enrol(cfg: DictConfig) -> None:
    """Removes people, adds people, trains changed sub-networks if asked, compares the accuracies, saves."""
    leaving, target = as_names(cfg.remove, "remove") or [], target_of(cfg)
    check_replaceable(target)
    before = Identifier.load(cfg.identifier, cfg.device, cfg.allow)
    original = open_original(before)
    if cfg.retrain:
        check_retrainable(before, original)
    remaining = without_identities(before, leaving) if leaving else before
    enrolled = Enrolled(remaining, original)
    newcomers = read_newcomers(cfg, enrolled)
    emptied: list[str] = []
    if cfg.move is not None or (newcomers and not set(newcomers.names).isdisjoint(remaining.identities)):
        newcomers, emptied = enrolled.joined(newcomers, as_names(cfg.move, "move") or [], cfg.to)
        remaining = without_identities(remaining, emptied) if emptied else remaining
        leaving += emptied
    after = changed(remaining, newcomers) if newcomers else remaining
    if cfg.retrain:
        after = retrain_changed(before, after, original, newcomers, notes())
    if after.decision.needs_fit:
        after = fit_again(after, original, newcomers)
    show_accuracy(before, after, original, newcomers)
    save(target, after, leaving, newcomers)
    if cfg.images is not None:
        source = ImageFolder(cfg.images)
        show_left_out(folders_left_out(source.root, source.scan().names.tolist()))
    for word, known in (("added", False), ("changed", True)):
        if names := [name for name in newcomers.names if (name in remaining.identities) == known] if newcomers else []:
            results().print(f"{word}: {', '.join(names)}", **LINE)
    if leaving:
        results().print(f"removed: {', '.join(leaving)}", **LINE)
    results().print(f"identifier of {len(after.identities)} people: {target}", **LINE)


def changed(identifier: Identifier, newcomers: Newcomers) -> Identifier:
    """The identifier with new class means of those newcomers whom it knows, and with the others added."""
    means_QD, known = newcomers.class_means(), set(identifier.identities)
    old = [row for row, name in enumerate(newcomers.names) if name in known]
    new = [row for row, name in enumerate(newcomers.names) if name not in known]
    if old:
        identifier = with_class_means(identifier, [newcomers.names[row] for row in old], means_QD[old])
    return with_identities(identifier, [newcomers.names[row] for row in new], means_QD[new]) if new else identifier


def save(target: Path, identifier: Identifier, leaving: list[str], newcomers: Newcomers | None) -> None:
    """Writes an identifier that notes the change, in place of an existing folder `target`."""
    changes = identifier.provenance.get("enrolment") or []
    change: dict[str, Any] = {"removed": leaving, "added": list(newcomers.names) if newcomers else []}
    if newcomers:
        change["pictures"] = newcomers.counts()
    noted = replace(identifier, provenance={**identifier.provenance, "enrolment": [*changes, change]})
    noted.save(target, overwrite=True)


def show_accuracy(before: Identifier, after: Identifier, original: Original, newcomers: Newcomers | None) -> None:
    """Prints a table of rank-1 accuracies without threshold, or why there is nothing to test on.

    The test pictures of people in both identifiers count, and the pictures of the added that are in no class mean.
    """
    console, table = results(), Table(title="rank-1 accuracy")
    for column in ("probes", "number", "before %", "after %"):
        table.add_column(column, justify="left" if column == "probes" else "right")
    if original.missing:
        console.print(f"nothing to test the enrolled on: {original.missing}", **LINE)
    else:
        gone = frozenset(before.identities) - frozenset(after.identities)
        added = frozenset(newcomers.names) if newcomers else frozenset()
        probes = [original.of(original.splits.test, one, gone | added) for one in (before, after)]
        if len(probes[0]):
            pairs = zip((before, after), probes, strict=True)
            shares = [f"{accuracy(one, original.embedding_set.embeddings, split):.2f}" for one, split in pairs]
            table.add_row("test pictures of the enrolled", str(len(probes[0])), *shares)
        else:
            console.print("nothing to test the enrolled on: no test picture of anybody who stays", **LINE)
    if newcomers:
        if len(test := newcomers.test):
            share = accuracy(after, newcomers.embeddings_ND, newcomers.of(test, after))
            table.add_row("kept pictures of the added", str(len(test)), "-", f"{share:.2f}")
        else:
            untested = not len(newcomers.val) and len(newcomers.train) > len(newcomers.names)
            why = "test=false" if untested else "one picture each"
            console.print(f"nothing to test the added on: {why}, all of it in the class means", **LINE)
    if table.row_count:
        console.print(table)


def accuracy(identifier: Identifier, embeddings_ND: np.ndarray, probes: Split) -> float:
    """Rank-1 accuracy in percent, without threshold; labels of probes are indices into `identifier.identities`."""
    unlimited, hits = replace(identifier, threshold=None), 0
    for start in range(0, len(probes), PROBES_AT_ONCE):
        block = slice(start, start + PROBES_AT_ONCE)
        hits += int((unlimited.identify(embeddings_ND[probes.rows[block]]).index == probes.labels[block]).sum())
    return 100 * hits / len(probes)

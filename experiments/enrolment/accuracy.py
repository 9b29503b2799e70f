# SPDX-License-Identifier: MIT
"""How accurate an identifier was, and how accurate it is now."""

from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table

from datamodules.splits import Split
from experiments.coordination.screen import LINE
from experiments.enrolment.newcomers import Newcomers
from experiments.enrolment.original import Original
from lightning_modules.identifier import PROBES_AT_ONCE, Identifier


def show_accuracy(
    before: Identifier, after: Identifier, original: Original, newcomers: Newcomers | None, console: Console
) -> None:
    """Prints a table of rank-1 accuracies without threshold; or says that there is nothing to test on.

    Args:
        original: its test probes of people in both identifiers count.
        newcomers: their pictures that are in no class mean count.
    """
    table = Table(title="rank-1 accuracy")
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
            known = len(after.identities) - len(newcomers.names)
            share = accuracy(after, newcomers.embeddings_ND, Split(test.rows, test.labels + known))
            table.add_row("kept pictures of the added", str(len(test)), "-", f"{share:.2f}")
        else:
            untested = not len(newcomers.val) and len(newcomers.train) > len(newcomers.names)
            why = "test=false" if untested else "one picture each"
            console.print(f"nothing to test the added on: {why}, all of it in the class means", **LINE)
    if table.row_count:
        console.print(table)


def accuracy(identifier: Identifier, embeddings_ND: np.ndarray, probes: Split) -> float:
    """Share of probes named rightly, in percent, whatever the threshold.

    Args:
        probes: rows of `embeddings_ND`; labels as the identifier numbers people.
    """
    unlimited, hits = replace(identifier, threshold=None), 0
    for start in range(0, len(probes), PROBES_AT_ONCE):
        block = slice(start, start + PROBES_AT_ONCE)
        hits += int((unlimited.identify(embeddings_ND[probes.rows[block]]).index == probes.labels[block]).sum())
    return 100 * hits / len(probes)

# SPDX-License-Identifier: MIT
"""What experiments.prepare says at the end."""

from datamodules.embedding_set import EmbeddingSet
from experiments.coordination.screen import LINE, results


def show(made: EmbeddingSet | None) -> None:
    """Prints a summary of a set; nothing in the helper processes of a distributed run, which get None."""
    if made is None:
        return
    console, counts = results(), made.sample_counts()
    copies, rejected = made.meta.get("copies", 0), made.meta.get("rejected", 0)
    console.print(
        f"{len(made):,} embeddings of {made.n_identities:,} identities, {made.dim}-d {made.embeddings.dtype}, "
        f"{counts.min()} to {counts.max()} each, by {made.meta.get('extractor')}",
        **LINE,
    )
    if copies:
        console.print(f"{copies:,} of them are augmented copies, marked in files.txt", **LINE)
    if rejected:
        console.print(f"{rejected:,} images could not be used: {made.path / 'rejected.csv'} says why", **LINE)
    console.print(str(made.path), **LINE)

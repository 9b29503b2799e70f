# SPDX-License-Identifier: MIT
"""What experiments.prepare says at the end."""

from rich.console import Console

from datamodules.embedding_set import EmbeddingSet


def show(made: EmbeddingSet | None) -> None:
    """Prints a summary of a set; nothing in the helper processes of a distributed run, which get None."""
    if made is None:
        return
    console, counts = Console(soft_wrap=True, highlight=False), made.sample_counts()
    copies, rejected = made.meta.get("copies", 0), made.meta.get("rejected", 0)
    console.print(
        f"{len(made):,} embeddings of {made.n_identities:,} identities, {made.dim}-d {made.embeddings.dtype}, "
        f"{counts.min()} to {counts.max()} each, by {made.meta.get('extractor')}",
        markup=False,
    )
    if copies:
        console.print(f"{copies:,} of them are augmented copies, marked in files.txt", markup=False)
    if rejected:
        console.print(f"{rejected:,} images could not be used: {made.path / 'rejected.csv'} says why", markup=False)
    console.print(str(made.path), markup=False)

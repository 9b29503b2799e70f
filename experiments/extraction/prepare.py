# SPDX-License-Identifier: MIT
"""The work of experiments.prepare."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.embedding_set import EmbeddingSet
from datamodules.files import read_json
from datamodules.sources.arrays import Arrays
from experiments.command_line.terminal import LINE, results
from experiments.extraction.config import ExtractionConfig, build_aligner, recipe
from experiments.extraction.extract import extract
from experiments.extraction.left_out import left_out, show_left_out


def prepare(cfg: DictConfig) -> None:
    """Makes an EmbeddingSet of the pictures or arrays of a source, and prints a summary.

    Raises:
        InputError: what `extract` or `Arrays.write` refuses.
    """
    source, out = instantiate(cfg.source), Path(cfg.out).expanduser()
    before: dict[str, Any] = {}
    made: EmbeddingSet | None
    if isinstance(source, Arrays):
        made = source.write(out)
    else:
        extractor = instantiate(cfg.extractor)
        aligner = build_aligner(cfg.alignment, source, extractor)
        settings, trainer = ExtractionConfig(**cfg.extraction), OmegaConf.to_container(cfg.trainer)
        before = read_json(out / "meta.json", "name another out") if out.is_dir() else {}
        made = extract(source, extractor, aligner, cfg.out, settings, trainer, recipe(cfg))
    if made is None:
        return  # one of several processes that helped to extract
    console, counts = results(), made.sample_counts()
    copies, rejected = made.meta.get("copies", 0), made.meta.get("rejected", 0)
    console.print(
        f"{len(made):,} embeddings of {made.n_identities:,} identities, {made.dim}-d {made.embeddings.dtype}, "
        f"{counts.min()} to {counts.max()} each, by {made.meta.get('extractor', source.describe())}",
        **LINE,
    )
    if before and (people := made.n_identities - before["identities"]) + (more := len(made) - before["count"]):
        console.print(f"added to the set that was there: {people:,} identities, {more:,} embeddings", **LINE)
    if copies:
        console.print(f"{copies:,} of them are augmented copies, marked in files.txt", **LINE)
    if rejected:
        console.print(f"{rejected:,} images could not be used: {made.path / 'rejected.csv'} says why", **LINE)
    show_left_out(left_out(source, made))
    console.print(str(made.path), **LINE)

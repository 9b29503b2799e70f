# SPDX-License-Identifier: MIT
"""From a source and an extractor to an EmbeddingSet, in a hidden folder that becomes the set at the end.

Axes: N images, D embedding dimension.
"""

import fcntl
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

from datamodules.alignment import Aligner
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.extractors.base import Extractor
from datamodules.files import read_json, write_json
from datamodules.sources.base import Listing, Source
from experiments.extraction.assembling import Part, assemble
from experiments.extraction.config import ExtractionConfig
from experiments.extraction.loading import CropDataModule, CropDataset
from experiments.extraction.predicting import ExtractionModule, ImageProgress, ShardWriter
from experiments.extraction.shards import ShardStore

logger = logging.getLogger(__name__)


@dataclass
class ExtractionSettings(ExtractionConfig):
    """The same, checked.

    Raises:
        InputError: a number too small, or an unknown dtype.
    """

    def __post_init__(self):
        for key, low in (("batch_size", 1), ("num_workers", 0), ("shard_rows", 1), ("max_side", 32)):
            if (value := getattr(self, key)) < low:
                raise InputError(f"extraction.{key} = {value}", f"at least {low}", f"raise extraction.{key}")
        if self.dtype not in ("float16", "float32"):
            raise InputError(f"extraction.dtype = {self.dtype!r}", "float16 or float32", "choose one of them")


def extract(
    source: Source, extractor: Extractor, aligner: Aligner, out: Path | str, settings: ExtractionSettings,
    trainer_options: dict[str, Any], facts: dict[str, Any] | None = None,
) -> EmbeddingSet | None:  # fmt: skip
    """Embeds every image of a source; goes on where a killed run with the same arguments left off.

    Args:
        out: the EmbeddingSet to make; beside its files it gets `rejected.csv` (file, identity, reason).
        trainer_options: accelerator, devices, strategy, num_nodes, precision for Lightning's Trainer.
        facts: more to note in `meta.json`.

    Returns:
        The set; None on all but the first of several processes.

    Raises:
        InputError: the aligner cuts out another size than the extractor takes; `out`, or what is left of a killed
            run, was made with other weights or settings; no image is usable.
    """
    out = Path(out).expanduser()
    if aligner.image_size != extractor.image_size:
        got = f"alignment.image_size = {aligner.image_size}"
        expected = f"{extractor.image_size}, as {extractor.name} takes"
        raise InputError(got, expected, "leave out alignment.image_size")
    listing = source.listing()
    plan = {
        "extractor": extractor.fingerprint(), "alignment": aligner.describe(), "images": listing.digest(),
        "top_up_to": source.top_up_to, "seed": source.seed, "dtype": settings.dtype, "max_side": settings.max_side,
    }  # fmt: skip
    if out.exists():
        return _finished(out, plan)
    work = out.parent / f".{out.name}.prepare"
    with rank_zero_only(_work_folder)(work, {**plan, "shard_rows": settings.shard_rows}) or nullcontext():
        run = _Run(source, extractor, aligner, work, settings, trainer_options)
        originals = run.embed("originals", listing)
        usable = originals.listing
        if not len(usable):
            reasons = "; ".join(sorted(set(originals.rejected.values()))[:3])
            got = f"{len(listing)} images, none usable ({reasons})"
            raise InputError(got, "at least one", "check source and alignment")
        parts = [originals]
        if len(copies := source.copies(usable)):
            parts.append(run.embed("copies", copies))
        meta = {**source.provenance(), "extractor": plan["extractor"], "alignment": plan["alignment"]}
        return _assembled(work, parts, {**meta, **(facts or {}), "plan": plan}, out)


@rank_zero_only
def _assembled(work: Path, parts: list[Part], meta: dict[str, Any], out: Path) -> EmbeddingSet:
    assemble(work / "set", parts, meta)
    out.parent.mkdir(parents=True, exist_ok=True)
    os.replace(work / "set", out)
    shutil.rmtree(work)
    return EmbeddingSet.open(out, check_values=False)


@dataclass(frozen=True)
class _Run:
    source: Source
    extractor: Extractor
    aligner: Aligner
    work: Path
    settings: ExtractionSettings
    trainer_options: dict[str, Any]

    def embed(self, part: str, listing: Listing) -> Part:
        """Embeds all images of a listing that are not embedded yet."""
        settings = self.settings
        dim = self.extractor.embedding_dim
        store = ShardStore(self.work / part, len(listing), dim, settings.dtype, settings.shard_rows)
        if pending := store.pending():
            left = sum(len(store.rows_of(shard)) for shard in pending)
            if left < len(listing):
                logger.info("going on with %s: %d of %d images were done", part, len(listing) - left, len(listing))
            trainer = pl.Trainer(
                **self.trainer_options, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, use_distributed_sampler=False,
                callbacks=[ShardWriter(store), ImageProgress(part, len(listing), len(listing) - left)],
            )  # fmt: skip
            crops = CropDataset(self.source, listing.names, self.aligner, settings.max_side)
            data = CropDataModule(crops, store, settings.batch_size, settings.num_workers)
            with warnings.catch_warnings():
                # Lightning cannot know that our batches cover all rows; the shard store does.
                warnings.filterwarnings("ignore", message=".*custom batch sampler.*")
                trainer.predict(ExtractionModule(self.extractor), data, return_predictions=False)
            # Not in a hook: a device without a pending shard gets none of the hooks.
            trainer.strategy.barrier("all shards finished")
        return Part.of(listing, store)


def _finished(out: Path, plan: dict[str, Any]) -> EmbeddingSet:
    made = read_json(out / "meta.json", cure="name another out").get("plan")
    _compare(out, made if isinstance(made, dict) else {}, plan)
    logger.info("%s is there already, made with the same images, weights and settings", out)
    return EmbeddingSet.open(out, check_values=False)


def _compare(folder: Path, made: dict[str, Any], asked: dict[str, Any]) -> None:
    for key, value in asked.items():
        if made.get(key) != value:
            got = f"{folder}, made with {key} {made.get(key)}"
            raise InputError(got, f"{key} {value}", "name another out, or remove that folder")


@contextmanager
def _work_folder(work: Path, plan: dict[str, Any]) -> Iterator[None]:
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            got = f"{work}, in use by another process"
            raise InputError(got, "one run at a time", "wait, or name another out") from None
        if (work / "plan.json").exists():
            _compare(work, read_json(work / "plan.json", cure="remove the folder, it is made anew"), plan)
        else:
            write_json(work / "plan.json", plan)
        shutil.rmtree(work / "set", ignore_errors=True)
        yield

# SPDX-License-Identifier: MIT
"""From a source and an extractor to an EmbeddingSet, in a hidden folder that becomes the set at the end.

Axes: N images, D embedding dimension.
"""

import logging
import shutil
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

from callbacks.image_progress import ImageProgress
from callbacks.shard_writer import ShardWriter
from datamodules.alignment import Aligner
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.extraction.assembling import Earlier, Part, assemble
from datamodules.extraction.loading import CropDataModule, CropDataset
from datamodules.extraction.shards import ShardStore
from datamodules.extractors.base import Extractor
from datamodules.files import make_folder, read_json, replace_folder, write_json
from datamodules.sources.base import Listing, Source
from experiments.command_line.terminal import notes
from experiments.extraction.config import ExtractionConfig
from experiments.runs.run_lock import RunLock
from lightning_modules.extraction_module import ExtractionModule

logger = logging.getLogger(__name__)


def extract(
    source: Source, extractor: Extractor, aligner: Aligner, out: Path | str, settings: ExtractionConfig,
    trainer_options: dict[str, Any], facts: dict[str, Any] | None = None,
) -> EmbeddingSet | None:  # fmt: skip
    """Embeds every image of a source; continues a killed run that had the same arguments.

    If `out` is a set of the same source, weights and settings, only images that it does not have are embedded: an image
    is known by its name. The larger set replaces the earlier one in one step.

    Args:
        out: the EmbeddingSet to make, with an additional file `rejected.csv` (file, identity, reason).
        trainer_options: accelerator, devices, strategy, num_nodes, precision for Lightning's Trainer.

    Returns:
        The set; None in all but the first of several processes.

    Raises:
        InputError: the crops of the aligner have another size than the extractor takes; `out`, or what is left of a
            killed run, was made with other weights or settings; `out` has images that the source has not; no image is
            usable; another process makes `out`.
    """
    out = Path(out).expanduser()
    if aligner.image_size != extractor.image_size:
        got = f"alignment.image_size = {aligner.image_size}"
        raise InputError(got, f"{extractor.image_size}, as {extractor.name} takes", "leave out alignment.image_size")
    listing = source.listing()
    plan = {
        "extractor": extractor.fingerprint(), "alignment": aligner.describe(), "images": listing.digest(),
        "top_up_to": source.top_up_to, "seed": source.seed, "dtype": settings.dtype, "max_side": settings.max_side,
    }  # fmt: skip
    earlier = None
    if out.exists():
        made = read_json(out / "meta.json", cure="name another out").get("plan")
        made = made if isinstance(made, dict) else {}
        _compare(out, made, {**plan, "images": made.get("images")})
        if made.get("images") == plan["images"]:
            logger.info("%s exists already, made with the same images, weights and settings", out)
            return EmbeddingSet.open(out, check_values=False)
        earlier = Earlier.open(out)
        earlier.check_all_there(listing.names, out, source.describe())
    work = out.parent / f".{out.name}.prepare"
    embed = partial(_embed, work, source, extractor, aligner, settings, trainer_options)
    with ExitStack() as stack:
        _begin(work, {**plan, "shard_rows": settings.shard_rows}, stack)
        parts = _parts(embed, "originals", listing, earlier, 0)
        usable = listing.take(np.sort(np.concatenate([part.places for part in parts])))
        if not len(usable):
            reasons = "; ".join(sorted({reason for part in parts for _, _, reason in part.rejected.values()})[:3])
            got = f"{len(listing)} images, none usable ({reasons})"
            raise InputError(got, "at least one", "check source and alignment")
        if len(copies := source.copies(usable)):
            parts += _parts(embed, "copies", copies, earlier, len(listing))
        meta = {**source.provenance(), "extractor": plan["extractor"], "alignment": plan["alignment"]}
        return _assembled(work, parts, {**meta, **(facts or {}), "plan": plan}, out)


def _parts(
    embed: Callable[[str, Listing, np.ndarray], Part], name: str, listing: Listing, earlier: Earlier | None, first: int
) -> list[Part]:
    places = first + np.arange(len(listing))
    if earlier is None:
        return [embed(name, listing, places)]
    there = earlier.has(listing.names)
    old, new = np.flatnonzero(there), np.flatnonzero(~there)
    parts = [Part.known(listing.take(old), earlier, places[old])] if len(old) else []
    return [*parts, embed(name, listing.take(new), places[new])] if len(new) else parts


@rank_zero_only
def _begin(work: Path, plan: dict[str, Any], stack: ExitStack) -> None:
    lock = RunLock(make_folder(work) / "lock")
    stack.callback(lock.release)
    if (work / "plan.json").exists():
        _compare(work, read_json(work / "plan.json", cure="remove the folder, it is made anew"), plan)
    else:
        write_json(work / "plan.json", plan)
    lock.sign()
    shutil.rmtree(work / "set", ignore_errors=True)


def _embed(
    work: Path, source: Source, extractor: Extractor, aligner: Aligner, settings: ExtractionConfig,
    trainer_options: dict[str, Any], part: str, listing: Listing, places: np.ndarray,
) -> Part:  # fmt: skip
    store = ShardStore(work / part, len(listing), extractor.embedding_dim, settings.dtype, settings.shard_rows)
    if pending := store.pending():
        done = len(listing) - sum(len(store.rows_of(shard)) for shard in pending)
        if done:
            logger.info("continuing with %s: %d of %d images were done", part, done, len(listing))
        trainer = pl.Trainer(
            **trainer_options, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False,
            callbacks=[ShardWriter(store), ImageProgress(part, len(listing), done, notes())],
        )  # fmt: skip
        crops = CropDataset(source, listing.names, aligner, settings.max_side)
        data = CropDataModule(crops, store, settings.batch_size, settings.num_workers)
        with warnings.catch_warnings():
            # Lightning cannot know that our batches cover all rows; the shard store does.
            warnings.filterwarnings("ignore", message=".*custom batch sampler.*")
            trainer.predict(ExtractionModule(extractor), data, return_predictions=False)
        # Not in a hook: no hook is called on a device without a pending shard.
        trainer.strategy.barrier("all shards finished")
    return Part.of(listing, store, places)


@rank_zero_only
def _assembled(work: Path, parts: list[Part], meta: dict[str, Any], out: Path) -> EmbeddingSet:
    assemble(work / "set", parts, meta)
    replace_folder(work / "set", out)
    shutil.rmtree(work)
    return EmbeddingSet.open(out, check_values=False)


def _compare(folder: Path, made: dict[str, Any], asked: dict[str, Any]) -> None:
    for key, value in asked.items():
        if key == "images" and made.get(key) != value:
            got = f"{folder}, left by a run that was killed and had other pictures"
            raise InputError(got, "the pictures it was begun with", "remove that folder, everything is embedded anew")
        if made.get(key) != value:
            got = f"{folder}, made with {key} {made.get(key)}"
            raise InputError(got, f"{key} {value}", "name another out, or remove that folder")

# SPDX-License-Identifier: MIT
"""The identities to train with and the identities held out, as data sets of embeddings or of images.

Axes: N samples, K identities.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from datamodules.alignment import Resize
from datamodules.errors import InputError
from datamodules.identity_batches import EmbeddingRows, ImageRows, Rows
from experiments.comparison.data import dataset_name
from experiments.extraction.config import build_aligner


@dataclass(frozen=True)
class TripletData:
    """Samples of the identities to train with, and of those held out."""

    name: str
    fingerprint: str  # changes with the data and with the hold-out
    train: Rows
    test: Rows


def open_data(cfg: DictConfig, network: Any) -> TripletData:
    """Opens the data that the network takes, embeddings or images, and holds identities out; refuses other data."""
    given = [key for key in ("data", "source") if cfg[key] is not None]
    wanted, example = {
        "embeddings": ("data", "data=embedding_set data.path=SET"),
        "images": ("source", "source=image_folder source.root=DIR"),
    }[network.takes]
    if given != [wanted]:
        got = f"{' and '.join(given) or 'no data'} for a network on {network.takes}"
        raise InputError(got, example, "choose another network, or these data")
    share, seed, opened = cfg.evaluation.held_out, cfg.seed, instantiate(cfg[wanted])
    if wanted == "data":
        train, test = hold_out(opened.labels, share, seed)
        name, digest = dataset_name(opened), opened.fingerprint()
        parts: tuple[Rows, Rows] = EmbeddingRows(opened, train), EmbeddingRows(opened, test)
    else:
        listing = opened.listing()
        aligner = build_aligner(cfg.alignment, None, network) if cfg.alignment else Resize(network.image_size)
        train, test = hold_out(listing.labels, share, seed)
        name, digest = Path(cfg.source.root).resolve().name, f"{listing.digest()} {aligner.describe()}"
        rows = partial(ImageRows, opened, listing)
        parts = rows(train, aligner, flip=True), rows(test, aligner, flip=False)
    return TripletData(name, f"{digest} held out {share} seed {seed}", *parts)


def hold_out(labels_N: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train with and rows of held-out identities, both ascending.

    Args:
        share: of the identities, in (0, 1).

    Raises:
        InputError: a share that leaves fewer than two identities on either side.
    """
    k = int(labels_N.max()) + 1
    count = round(k * share)
    if not 2 <= count <= k - 2:
        got = f"evaluation.held_out = {share:g} of {k} identities"
        raise InputError(got, "two identities on either side", "set evaluation.held_out")
    held = np.isin(labels_N, np.random.default_rng([seed, 7]).permutation(k)[:count])
    return np.flatnonzero(~held), np.flatnonzero(held)

# SPDX-License-Identifier: MIT
"""Who is trained with and who is held out, as data sets of embeddings or of images.

Axes: N samples, K identities.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.alignment import Resize
from datamodules.errors import InputError
from datamodules.identity_batches import EmbeddingRows, ImageRows, Rows
from experiments.coordination.data import dataset_name


@dataclass(frozen=True)
class People:
    """Samples to train with, and those of the identities held out; the fingerprint changes with data and hold-out."""

    name: str
    fingerprint: str
    train: Rows
    test: Rows


def open_people(cfg: DictConfig, network: Any) -> People:
    """Opens the data that the network takes, embeddings or images, and holds identities out.

    Raises:
        InputError: no data, data of the other kind, or too few identities.
    """
    given = [key for key in ("data", "source") if cfg[key] is not None]
    wanted, example = {
        "embeddings": ("data", "data=embedding_set data.path=SET"),
        "images": ("source", "source=image_folder source.root=DIR"),
    }[network.takes]
    if given != [wanted]:
        got = f"{' and '.join(given) or 'no data'} for a network on {network.takes}"
        raise InputError(got, example, "choose another network, or these data")
    share, seed = cfg.evaluation.held_out, cfg.seed
    if wanted == "data":
        embedding_set = instantiate(cfg.data)
        train, test = hold_out(embedding_set.labels, share, seed)
        name, digest = dataset_name(embedding_set), embedding_set.fingerprint()
        parts: tuple[Rows, Rows] = EmbeddingRows(embedding_set, train), EmbeddingRows(embedding_set, test)
    else:
        source = instantiate(cfg.source)
        listing = source.listing()
        aligner = (
            instantiate(_sized(cfg.alignment, network.image_size)) if cfg.alignment else Resize(network.image_size)
        )
        train, test = hold_out(listing.labels, share, seed)
        name, digest = Path(cfg.source.root).resolve().name, f"{listing.digest()} {aligner.describe()}"
        rows = partial(ImageRows, source, listing)
        parts = rows(train, aligner, flip=True), rows(test, aligner, flip=False)
    return People(name, f"{digest} held out {share} seed {seed}", *parts)


def hold_out(labels_N: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train with and rows of held-out identities, both ascending.

    Args:
        labels_N: identities in [0, K), each at least once.
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


def _sized(node: DictConfig, image_size: int) -> DictConfig:
    return OmegaConf.merge(node, {"image_size": image_size}) if OmegaConf.is_missing(node, "image_size") else node

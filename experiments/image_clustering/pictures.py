# SPDX-License-Identifier: MIT
"""Pictures of a source and their features, in memory: a folder of some thousand photographs at most.

Axes: N images, D features, S side of a crop.
"""

import logging
from dataclasses import dataclass

import numpy as np
import torch

from datamodules.errors import InputError
from datamodules.extractors.base import Extractor
from datamodules.images import RejectedImage, decode
from datamodules.sources.base import Source

log = logging.getLogger(__name__)

BATCH = 32  # images that go through the network together
MAX_BYTES = 4 << 30  # of crops kept for the figures: 28,000 of 224 pixels


@dataclass(frozen=True)
class Pictures:
    """N pictures that could be read.

    Attributes:
        crops_NSSC: (N, S, S, 3) uint8 RGB, as the network saw them.
        features_ND: (N, D) float32.
        names: N names relative to the source.
        labels_N: (N,) int32 class of each picture: its folder.
        classes: names of the classes that are left.
        rejected: (name, reason) of those that could not be read.
    """

    crops_NSSC: np.ndarray
    features_ND: np.ndarray
    names: tuple[str, ...]
    labels_N: np.ndarray
    classes: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]


def read_pictures(source: Source, extractor: Extractor) -> Pictures:
    """Reads all pictures of a source and extracts their features.

    Args:
        source: where they are.
        extractor: the network; it says how pictures are cropped.

    Raises:
        InputError: no picture can be read, or there are too many to be kept in memory.
    """
    listing, aligner = source.listing(), extractor.default_aligner()
    needed = len(listing) * 3 * extractor.image_size**2
    if needed > MAX_BYTES:
        raise InputError(
            f"{len(listing):,} pictures, {needed >> 20:,} MiB", f"at most {MAX_BYTES >> 20:,} MiB", "set source.images_per_identity"
        )
    crops, kept, rejected = [], [], []
    for row, name in enumerate(listing.names.tolist()):
        try:
            crops.append(aligner.main_face(decode(source.read(name)).pixels_HWC).crop_SSC)
            kept.append(row)
        except RejectedImage as reason:
            rejected.append((name, reason.reason))
    if rejected:
        log.warning("%d of %d pictures left out, the first: %s (%s)", len(rejected), len(listing), *rejected[0])
    if not kept:
        raise InputError(f"{len(listing)} pictures, none readable ({rejected[0][1]})", "photographs", "check source.root")
    left = listing.take(np.array(kept))
    crops_NSSC = np.stack(crops)
    return Pictures(
        crops_NSSC, features(extractor, crops_NSSC), tuple(left.names.tolist()), left.labels, left.identities, tuple(rejected)
    )


def features(extractor: Extractor, crops_NSSC: np.ndarray) -> np.ndarray:
    """Features of crops, in batches: (N, D) float32.

    Args:
        extractor: the network.
        crops_NSSC: (N, S, S, 3) uint8 RGB.
    """
    device = next((parameter.device for parameter in extractor.parameters()), torch.device("cpu"))
    batches = (torch.from_numpy(crops_NSSC[start : start + BATCH]) for start in range(0, len(crops_NSSC), BATCH))
    return np.concatenate([extractor.embed_images(batch.to(device)).float().cpu().numpy() for batch in batches])

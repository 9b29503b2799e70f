# SPDX-License-Identifier: MIT
"""The enrolled faces that probes are shown beside.

Axes: F faces, D embedding dimension, S side of a crop.
"""

import logging

import numpy as np
from hydra.utils import instantiate

from datamodules.alignment import Aligner
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.images import RejectedImage, decode
from datamodules.sources.base import Source, is_copy, original_of
from experiments.extraction.config import from_recipe

logger = logging.getLogger(__name__)


class Gallery:
    """The images that an EmbeddingSet with files.txt and a recipe in its meta.json was made from."""

    def __init__(self, embedding_set: EmbeddingSet, aligner: Aligner):
        self.embedding_set, self.aligner = embedding_set, aligner
        self._label_of = {name: label for label, name in enumerate(embedding_set.identities)}
        self._source = self._open_source()

    def best_face(self, identity: str, embedding_D: np.ndarray) -> np.ndarray | None:
        """The enrolled face of a person that is most like a probe.

        Returns:
            (S, S, 3) uint8 RGB; None where the person or the picture is not to be had.
        """
        label = self._label_of.get(identity)
        if label is None or self._source is None:
            return None
        start, end = np.searchsorted(self.embedding_set.labels, [label, label + 1])
        rows = np.asarray(self.embedding_set.embeddings[start:end], np.float32)
        cosine = rows @ embedding_D / np.linalg.norm(rows, axis=1)
        originals = np.array([not is_copy(name) for name in self.embedding_set.files[start:end]])
        name = self.embedding_set.files[start + int(np.argmax(np.where(originals, cosine, -np.inf)))]
        try:
            return self.aligner.main_face(decode(self._source.read(original_of(name))).pixels_HWC).crop_SSC
        except RejectedImage as rejection:
            logger.warning("%s cannot be shown: %s", name, rejection.reason)
            return None

    def _open_source(self) -> Source | None:
        node = from_recipe(self.embedding_set.meta.get("recipe", {}), "source") if self.embedding_set.files else None
        try:
            return instantiate(node) if node is not None else None
        except InputError as error:
            logger.warning("enrolled pictures cannot be shown: %s", error)
            return None

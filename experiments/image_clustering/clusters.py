# SPDX-License-Identifier: MIT
"""What the losses agree on, and the pictures of chosen rows.

Axis: S side of a crop.
"""

from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from datamodules.alignment import Aligner
from datamodules.embedding_set import EmbeddingSet
from datamodules.images import decode
from datamodules.sources.base import Source
from experiments.image_clustering.fits import Fit


def agreement(fits: Mapping[str, Fit], pictures: EmbeddingSet) -> pd.DataFrame:
    """How far any two losses agree, and each with the classes where there are several.

    Returns:
        Columns first, second, adjusted_rand (1 same, 0 as by chance), nmi (1 same, 0 independent).
    """
    named = {loss: fit.labels_N for loss, fit in fits.items()}
    named |= {"classes": pictures.labels} if pictures.n_identities > 1 else {}
    measures = {"adjusted_rand": adjusted_rand_score, "nmi": normalized_mutual_info_score}
    return pd.DataFrame(
        {"first": one, "second": two, **{key: score(named[one], named[two]) for key, score in measures.items()}}
        for one, two in combinations(named, 2)
    )


def crops_of(rows: Iterable[int], pictures: EmbeddingSet, source: Source, aligner: Aligner) -> dict[int, np.ndarray]:
    """The pictures of some rows as the network saw them: from a row to its (S, S, 3) uint8 RGB crop."""
    return {row: aligner.main_face(decode(source.read(pictures.files[row])).pixels_HWC).crop_SSC for row in rows}

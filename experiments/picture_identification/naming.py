# SPDX-License-Identifier: MIT
"""A table of names for faces. Axes: F faces, D embedding dimension, K identities."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from experiments.picture_identification.probing import Probes
from lightning_modules.identifier import Identifier

COLUMNS = "file face left top right bottom identity score cluster unknown best runner_up runner_up_cosine note".split()


def name_faces(identifier: Identifier, probes: Probes) -> pd.DataFrame:
    """One row per face, and one per picture without a face, sorted by file.

    Returns:
        Columns: file; face (number in the picture, the largest is 0); left, top, right, bottom (pixels of the upright
        picture); identity (the word for unknown under the threshold); score (of the decision); cluster; unknown; best
        (the answer without threshold); runner_up (the other person with the nearest class mean) and its cosine; note
        (why a picture has no face).
    """
    accepted = identifier.identify(probes.embeddings_FD)
    best = replace(identifier, threshold=None).identify(probes.embeddings_FD)
    runner_up, cosine = _runner_up(identifier, probes.embeddings_FD, best.index)
    left, top, right, bottom = np.round(probes.boxes_F4, 1).T
    face = pd.Series(probes.files, dtype=object).groupby(probes.files).cumcount() if probes.files else []
    rows = pd.DataFrame({
        "file": probes.files, "face": face, "left": left, "top": top, "right": right, "bottom": bottom,
        "identity": accepted.identity, "score": best.score, "cluster": best.cluster, "unknown": accepted.index < 0,
        "best": best.identity, "runner_up": runner_up, "runner_up_cosine": cosine, "note": "",
    })  # fmt: skip
    rows = rows.astype({"face": "Int64", "cluster": "Int64", "unknown": "boolean"})
    without = pd.DataFrame({"file": list(probes.rejected), "note": list(probes.rejected.values())})
    joined = pd.concat([part for part in (rows, without) if len(part)]) if len(rows) + len(without) else rows
    return joined.reindex(columns=COLUMNS).sort_values("file", kind="stable", ignore_index=True)


def folder_names(frame: pd.DataFrame) -> pd.Series:
    """The name of the folder that each picture is in; empty for the folder that was given."""
    return frame["file"].str.split("/").str[-2:-1].str.join("")


def strangers(frame: pd.DataFrame, enrolled: Collection[str], left_out: Collection[str] = ()) -> pd.Series:
    """Whether the folder of each picture has the name of nobody enrolled.

    Args:
        left_out: people of the training data who are not enrolled. If no folder has the name of anybody in the
            training data, folders do not stand for people, and nobody is a stranger.
    """
    folders = folder_names(frame)
    for_people = folders.isin({*enrolled, *left_out}).any()
    return (folders != "") & ~folders.isin(set(enrolled)) & for_people


def sheet_order(faces: pd.DataFrame, threshold: float | None, stranger: pd.Series) -> np.ndarray:
    """(F,) positions: strangers who got a name, then the scores nearest the threshold, from both sides alternately.

    Without threshold the order of the faces stays.
    """
    distance = (faces["score"].astype(float) - (threshold or 0.0)).abs() * (threshold is not None)
    rank = distance.groupby(faces["unknown"]).rank(method="first")
    return np.lexsort((rank, faces["unknown"] | ~stranger))


def folder_accuracy(frame: pd.DataFrame, identities: tuple[str, ...]) -> tuple[int, int] | None:
    """Rank-1 of the largest faces of pictures in folders named after an enrolled person, without threshold.

    Returns:
        Right answers, and pictures (one without a face counts as wrong); None without such pictures.
    """
    truth = folder_names(frame)
    chosen = truth.isin(set(identities)) & (frame["face"].fillna(0) == 0)
    if not chosen.any():
        return None
    return int((frame["best"] == truth)[chosen].sum()), int(chosen.sum())


def _runner_up(identifier: Identifier, embeddings_FD: np.ndarray, best_F: np.ndarray) -> tuple[list[str], np.ndarray]:
    if len(identifier.identities) < 2 or not len(best_F):
        return [""] * len(best_F), np.full(len(best_F), np.nan)
    probes = torch.from_numpy(embeddings_FD).to(identifier.class_means_KD.device)
    cosine_F2, identity_F2 = (part.cpu().numpy() for part in identifier.scores(probes).nearest_classes(2))
    second = (identity_F2[:, 0] == best_F).astype(int)  # the nearest mean, or the next if that is the answer itself
    rows = np.arange(len(best_F))
    return [identifier.identities[i] for i in identity_F2[rows, second]], cosine_F2[rows, second]

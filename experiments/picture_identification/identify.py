# SPDX-License-Identifier: MIT
"""The work of experiments.identify: names for embeddings, or for the faces in pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from hydra.utils import instantiate
from omegaconf import DictConfig

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.files import make_folder, open_npy, write_text
from experiments.command_line.terminal import LINE, results
from experiments.extraction.config import enrolled_extractor
from experiments.extraction.left_out import folders_left_out, show_left_out
from experiments.picture_identification.contact_sheet import Answer, Gallery, draw_sheet
from experiments.picture_identification.naming import folder_accuracy, folder_names, name_faces, sheet_order, strangers
from experiments.picture_identification.probing import FacesDataset, crops, list_pictures, probe
from lightning_modules.identifier import Identifier


def identify(cfg: DictConfig) -> None:
    """Names the people behind embeddings or in pictures and writes the CSV.

    Raises:
        InputError: unusable input, or a file that may not be replaced.
    """
    identifier = Identifier.load(cfg.identifier, cfg.device, cfg.allow)
    if cfg.threshold is not None:
        identifier = replace(identifier, threshold=cfg.threshold)
    if cfg.unknown is not None:
        identifier = replace(identifier, unknown=cfg.unknown)
    if cfg.index is not None:
        identifier = identifier.with_index(instantiate(cfg.index))
    (identify_embeddings if cfg.images is None else identify_pictures)(cfg, identifier)


def identify_embeddings(cfg: DictConfig, identifier: Identifier) -> None:
    """Names the rows of an .npy file or an EmbeddingSet.

    Raises:
        InputError: no embeddings, or some without a direction.
    """
    if Path(cfg.embeddings).is_dir():
        probes = EmbeddingSet.open(cfg.embeddings)
        embeddings, files = probes.embeddings, probes.files
    else:
        embeddings, files = open_npy(cfg.embeddings, ("float16", "float32", "float64"), ndim=2), ()
    found = identifier.identify(embeddings)
    if len(lost := np.flatnonzero(np.isnan(found.score))):
        got = f"{len(lost)} probes that are not finite or all zero (first: row {lost[0]})"
        raise InputError(got, "finite vectors with a direction", "remove them or make the embeddings again")
    columns = {"identity": found.identity, "score": found.score, "cluster": found.cluster}
    frame = pd.DataFrame(({"file": files} if files else {}) | {"row": range(len(found.index)), **columns})
    _write(frame, cfg.out, "%.6f")
    results().print(f"{len(frame)} probes, {int((found.index < 0).sum())} unknown: {cfg.out}", **LINE)


def identify_pictures(cfg: DictConfig, identifier: Identifier) -> None:
    """Finds, embeds and names every face, writes the CSV and the contact sheet, prints a summary.

    Raises:
        InputError: no pictures, no extractor known, or another extractor than that of the enrolled pictures.
    """
    sheet = Path(cfg.sheet or Path(cfg.out).with_suffix(".png"))
    if sheet.exists() and not cfg.overwrite:
        raise InputError(f"{sheet}, which exists", "a new file", "choose another sheet=, or say overwrite=true")
    # Only a set that the user named must exist: without the enrolled pictures the sheet has gaps, the answers none.
    place = cfg.gallery or identifier.provenance.get("data_path")
    there = cfg.gallery is not None or (place and Path(place).is_dir())
    enrolled = EmbeddingSet.open(place, check_values=False) if there else None
    recipe = (enrolled.meta.get("recipe") if enrolled else None) or identifier.provenance.get("recipe") or {}
    extractor, aligner = enrolled_extractor(cfg, recipe, identifier)

    folder, names = list_pictures(Path(cfg.images).expanduser())
    pictures = FacesDataset(folder, names, aligner, cfg.max_side, main_only=cfg.faces == "main")
    probes = probe(pictures, extractor, cfg.num_workers, cfg.device)
    frame = name_faces(identifier, probes)
    _write(frame, cfg.out, "%.4f")
    left_out = set(enrolled.identities) - set(identifier.identities) if enrolled else ()
    frame["stranger"] = strangers(frame, identifier.identities, left_out)
    faces = frame[frame["note"] == ""].reset_index(drop=True)
    chosen = sheet_order(faces, identifier.threshold, faces["stranger"])[: cfg.sheet_faces].tolist()
    gallery = Gallery(enrolled, aligner) if enrolled and enrolled.files else None
    answers = []
    for face, crop in zip(chosen, crops(pictures, probes, chosen, cfg.num_workers), strict=True):
        row = faces.loc[face]
        beside = gallery.best_face(row["best"], probes.embeddings_FD[face]) if gallery else None
        answers.append(Answer(crop, beside, row["best"], not row["unknown"], row["score"], row["file"]))
    order = "no threshold"
    if identifier.threshold is not None:
        order = f"threshold {identifier.threshold:.3f}, named strangers and the nearest scores first"
    make_folder(sheet.parent)
    caption = f"{len(answers)} of {len(faces)} faces, probe left, enrolled right; {order}"
    draw_sheet(sheet, answers, caption, identifier.unknown)
    _summarise(frame, faces, identifier)
    if Path(cfg.images).expanduser().is_dir():  # beside a single picture nothing was asked for
        show_left_out(folders_left_out(folder, names))
    results().print(f"{cfg.out}\n{sheet}", **LINE)


def _write(frame: pd.DataFrame, out: str, float_format: str) -> None:
    make_folder(Path(out).parent)
    write_text(out, frame.to_csv(index=False, float_format=float_format))


def _summarise(frame: pd.DataFrame, faces: pd.DataFrame, identifier: Identifier) -> None:
    console, unknown, without = results(), int(faces["unknown"].sum()), len(frame) - len(faces)
    console.print(f"{len(faces)} faces in {frame['file'].nunique()} pictures, {unknown} unknown", **LINE)
    if without:
        console.print(f"{without} pictures without a face, see the column note", **LINE)
    if (right := folder_accuracy(frame, identifier.identities)) is not None:
        share = 100 * right[0] / right[1]
        console.print(f"rank-1 {share:.2f} % of {right[1]} pictures in folders named after an enrolled person", **LINE)
    if frame["stranger"].any():
        others = frame[frame["stranger"]]
        names = sorted(set(folder_names(others)))
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        known = int((~faces.loc[faces["stranger"], "unknown"]).sum())
        console.print(
            f"{others['file'].nunique()} pictures in folders named after nobody enrolled ({listed}) are not in rank-1: "
            f"{known} of their {int(faces['stranger'].sum())} faces got a name",
            **LINE,
        )

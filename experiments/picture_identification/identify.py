# SPDX-License-Identifier: MIT
"""From a folder of pictures to a CSV of names and a contact sheet."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.extractors.base import Extractor
from datamodules.files import write_text
from experiments.coordination.screen import LINE, results
from experiments.extraction.config import build_aligner, from_recipe
from experiments.picture_identification.contact_sheet import Answer, draw_sheet
from experiments.picture_identification.gallery import Gallery
from experiments.picture_identification.naming import folder_accuracy, name_faces
from experiments.picture_identification.probing import probe
from lightning_modules.identifier import Identifier


def identify_pictures(cfg: DictConfig, identifier: Identifier) -> None:
    """Finds, embeds and names every face, writes the CSV and the contact sheet, prints a summary.

    Args:
        cfg: values of `schema.IdentifyConfig`.

    Raises:
        InputError: no pictures, no way to know the extractor, or another extractor than that of the enrolled.
    """
    out = Path(cfg.out)
    sheet = Path(cfg.sheet) if cfg.sheet else out.with_suffix(".png")
    if sheet.exists() and not cfg.overwrite:
        raise InputError(f"{sheet}, which exists", "a new file", "choose another sheet=, or say overwrite=true")
    enrolled = _enrolled(cfg.gallery, identifier)
    recipe = (enrolled.meta.get("recipe") if enrolled else None) or identifier.provenance.get("recipe") or {}
    extractor = build_extractor(cfg.extractor, recipe, identifier)
    node = cfg.alignment if cfg.alignment is not None else from_recipe(recipe, "alignment")
    aligner = build_aligner(node, None, extractor)

    if cfg.faces not in ("all", "main"):
        raise InputError(f"faces = {cfg.faces}", "all, or main for one face per picture", "choose one of them")
    probes = probe(
        Path(cfg.images).expanduser(), extractor, aligner, cfg.max_side, cfg.num_workers, cfg.sheet_faces, cfg.device,
        main_only=cfg.faces == "main",
    )  # fmt: skip
    frame = name_faces(identifier, probes)
    faces = frame[frame["note"] == ""]
    gallery = Gallery(enrolled, aligner) if enrolled and enrolled.files else None
    answers = [
        Answer(
            crop, gallery.best_face(row.best, embedding_D) if gallery else None, row.best, not row.unknown, row.score,
            row.file,
        )
        for row, crop, embedding_D in zip(faces.itertuples(), probes.crops, probes.embeddings_FD, strict=False)
    ]  # fmt: skip
    write_text(out, frame.to_csv(index=False, float_format="%.4f"))
    threshold = "no threshold" if identifier.threshold is None else f"threshold {identifier.threshold:.3f}"
    draw_sheet(sheet, answers, f"{len(answers)} of {len(faces)} faces, probe left, enrolled right; {threshold}")
    _summarise(frame, identifier, out, sheet)


def build_extractor(node: DictConfig | None, recipe: dict[str, Any], identifier: Identifier) -> Extractor:
    """The extractor that was named, else the one of the enrolled pictures.

    Raises:
        InputError: neither is known, or the weights are not those of the enrolled pictures.
    """
    if node is None and (node := from_recipe(recipe, "extractor")) is None:
        raise InputError(
            "an identifier that does not say how its pictures were embedded",
            "extractor=NAME, or gallery=SET with the EmbeddingSet of experiments.prepare",
            "name the extractor of the enrolled pictures",
        )
    extractor = instantiate(node)
    stated = identifier.provenance.get("extractor")
    if stated and extractor.fingerprint() != stated:
        got, expected = f"extractor {extractor.fingerprint()}", f"{stated}, that of the enrolled pictures"
        raise InputError(got, expected, "name that one, with its weights")
    return extractor


def _enrolled(path: str | None, identifier: Identifier) -> EmbeddingSet | None:
    # Where nobody named it, a set that has moved costs the enrolled faces on the sheet, not the answers.
    noted = identifier.provenance.get("data_path")
    if path is None and not (noted and Path(noted).is_dir()):
        return None
    return EmbeddingSet.open(path or noted, check_values=False)


def _summarise(frame, identifier: Identifier, out: Path, sheet: Path) -> None:
    console, faces = results(), frame[frame["note"] == ""]
    unknown, without = int(faces["unknown"].sum()), len(frame) - len(faces)
    console.print(f"{len(faces)} faces in {frame['file'].nunique()} pictures, {unknown} unknown", **LINE)
    if without:
        console.print(f"{without} pictures without a face, see the column note", **LINE)
    if (right := folder_accuracy(frame, identifier.identities)) is not None:
        share = 100 * right[0] / right[1]
        console.print(f"rank-1 {share:.2f} % of {right[1]} pictures in folders named after an enrolled person", **LINE)
    console.print(f"{out}\n{sheet}", **LINE)

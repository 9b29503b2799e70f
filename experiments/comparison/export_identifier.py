# SPDX-License-Identifier: MIT
"""experiments.export: an Identifier for ONNX, Hugging Face's hub or faiss; an EmbeddingSet as a table."""

import os
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
from omegaconf import DictConfig

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.files import atomic_file, atomic_folder, make_folder, read_json, write_text
from datamodules.sources.tables import write_parquet
from experiments.command_line.terminal import LINE, results
from experiments.comparison.model_card import model_card
from lightning_modules.identifier import FORMAT, Identifier
from lightning_modules.onnx_export import export_onnx, largest_difference, likely_probes


def export_identifier(cfg: DictConfig) -> None:
    """Writes an identifier in another format, or a table of embeddings, and says what was written.

    Raises:
        InputError: the identifier or the EmbeddingSet cannot be loaded or exported.
    """
    if cfg.embeddings is not None and cfg.format != "onnx":
        raise InputError(f"format={cfg.format} for embeddings=", "none, a table is Parquet", "leave format= out")
    formats = {"onnx": _onnx, "huggingface": _huggingface, "faiss": _faiss}
    out = Path(cfg.out).expanduser()
    if out.exists() and out.is_dir() != (cfg.format == "huggingface"):
        raise InputError(f"{out}, of another kind", f"what format={cfg.format} writes", "choose another out=")
    if cfg.embeddings is not None:
        made = EmbeddingSet.open(cfg.embeddings)
        make_folder(out.parent)
        write_parquet(made, out)
        results().print(f"{out}: {len(made):,} embeddings of {made.n_identities:,} identities, {made.dim}-d", **LINE)
        return
    identifier = Identifier.load(cfg.identifier, allow=cfg.allow)
    make_folder(out.parent)
    told = formats[cfg.format](identifier, out, list(cfg.allow))
    results().print(f"{out}: {len(identifier.identities)} people, {identifier.dim}-d\n{told}", **LINE)


def _onnx(identifier: Identifier, out: Path, allow: list[str]) -> str:
    exact = identifier.with_index(None)  # the file compares with all class means
    export_onnx(exact, out)
    probes_BD = likely_probes(exact)
    others, difference = largest_difference(exact, out, probes_BD)
    return (
        f"through onnxruntime {others} of {len(probes_BD)} probes are answered otherwise; scores differ by at most "
        f"{difference:.1e}"
    )


def _huggingface(identifier: Identifier, out: Path, allow: list[str]) -> str:
    if out.exists() and read_json(out / "config.json", "choose another out=").get("format") != FORMAT:
        raise InputError(f"{out}, which is no exported identifier", "one that may be replaced", "choose another out=")
    # Where the data lie on this machine is nobody else's business.
    public = {key: value for key, value in identifier.provenance.items() if key != "data_path"}
    with atomic_folder(out, overwrite=True) as folder:
        replace(identifier, provenance=public).save(folder / "identifier")
        os.replace(folder / "identifier/identifier.json", folder / "config.json")
        os.replace(folder / "identifier/identifier.safetensors", folder / "model.safetensors")
        (folder / "identifier").rmdir()
        write_text(folder / "README.md", model_card(identifier, out.name, allow))
    return "config.json, model.safetensors and README.md, the model card: read it before you upload the folder"


def _faiss(identifier: Identifier, out: Path, allow: list[str]) -> str:
    index, names = faiss.IndexFlatIP(identifier.dim), out.with_name(f"{out.name}.txt")
    if broken := [name for name in identifier.identities if len(name.splitlines()) != 1]:
        raise InputError(f"a person called {broken[0]!r}", "names of one line each", "rename them")
    index.add(np.ascontiguousarray(identifier.class_means_KD.numpy()))
    write_text(names, "".join(f"{name}\n" for name in identifier.identities))
    with atomic_file(out) as temporary:
        faiss.write_index(index, str(temporary))
    return f"class means for search by inner product; line i + 1 of {names.name} names row i"

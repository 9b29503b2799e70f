# SPDX-License-Identifier: MIT
"""experiments.export: an Identifier as one ONNX file."""

from pathlib import Path

from omegaconf import DictConfig

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.files import make_folder
from datamodules.sources.tables import write_parquet
from experiments.command_line.terminal import LINE, results
from lightning_modules.identifier import Identifier
from lightning_modules.onnx_export import export_onnx, largest_difference, likely_probes


def export_identifier(cfg: DictConfig) -> None:
    """Exports, and compares the answers of the file with those of the identifier; or writes a table of embeddings.

    Raises:
        InputError: the file exists, or the identifier or the EmbeddingSet cannot be loaded or exported.
    """
    out = Path(cfg.out).expanduser()
    if out.exists() and not cfg.overwrite:
        raise InputError(f"{out}, which exists", "a new file", "choose another out=, or say overwrite=true")
    if cfg.embeddings is not None:
        made = EmbeddingSet.open(cfg.embeddings)
        make_folder(out.parent)
        write_parquet(made, out)
        results().print(f"{out}: {len(made):,} embeddings of {made.n_identities:,} identities, {made.dim}-d", **LINE)
        return
    # The file compares with all class means.
    identifier = Identifier.load(cfg.identifier, allow=cfg.allow).with_index(None)
    make_folder(out.parent)
    export_onnx(identifier, out)
    probes_BD = likely_probes(identifier)
    others, difference = largest_difference(identifier, out, probes_BD)
    results().print(
        f"{out}: {len(identifier.identities)} people, {identifier.dim}-d\nthrough onnxruntime {others} of "
        f"{len(probes_BD)} probes are answered otherwise; scores differ by at most {difference:.1e}",
        **LINE,
    )  # fmt: skip

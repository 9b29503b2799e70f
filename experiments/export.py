# SPDX-License-Identifier: MIT
"""An Identifier for other tools, or an EmbeddingSet as a table: python -m experiments.export identifier=DIR out=FILE"""

from dataclasses import dataclass, field

from omegaconf import MISSING

from experiments.command_line.command import command


@dataclass
class ExportConfig:
    """experiments.export"""

    identifier: str | None = None  # Identifier folder
    embeddings: str | None = None  # EmbeddingSet folder to write as a Parquet table, in place of an identifier
    out: str = MISSING  # what to write: a file, or with huggingface a folder
    format: str = "onnx"  # onnx, huggingface or faiss
    allow: list[str] = field(default_factory=list)  # packages of your own whose routers, decisions, ... are imported
    overwrite: bool = False  # whether an existing `out` may be replaced


main = command("export", ExportConfig, "experiments.comparison.export_identifier.export_identifier")

if __name__ == "__main__":
    main()

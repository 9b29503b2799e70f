# SPDX-License-Identifier: MIT
"""An Identifier as one ONNX file: python -m experiments.export identifier=DIR out=FILE.onnx

Or an EmbeddingSet as a table: embeddings=SET out=FILE.parquet
"""

from dataclasses import dataclass, field

from omegaconf import MISSING

from experiments.command_line.command import command


@dataclass
class ExportConfig:
    """experiments.export"""

    identifier: str = MISSING  # Identifier folder
    embeddings: str | None = None  # EmbeddingSet folder to write as a Parquet table, in place of an identifier
    out: str = MISSING  # ONNX or Parquet file to write
    allow: list[str] = field(default_factory=list)  # packages of your own whose routers, decisions, ... are imported
    overwrite: bool = False  # whether an existing `out` may be replaced


main = command("export", ExportConfig, "experiments.comparison.export_identifier.export_identifier")

if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""An Identifier for ONNX, Hugging Face or faiss: python -m experiments.export identifier=DIR out=FILE.onnx"""

from dataclasses import dataclass, field

from omegaconf import MISSING

from experiments.command_line.command import command


@dataclass
class ExportConfig:
    """experiments.export"""

    identifier: str = MISSING  # Identifier folder
    out: str = MISSING  # what to write: a file, or with huggingface a folder
    format: str = "onnx"  # onnx, huggingface or faiss
    allow: list[str] = field(default_factory=list)  # packages of your own whose routers, decisions, ... are imported
    overwrite: bool = False  # whether an existing `out` may be replaced


main = command("export", ExportConfig, "experiments.comparison.export_identifier.export_identifier")

if __name__ == "__main__":
    main()

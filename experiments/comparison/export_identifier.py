# SPDX-License-Identifier: MIT
"""experiments.export: an Identifier as one ONNX file."""

from pathlib import Path

from omegaconf import DictConfig

from datamodules.files import make_folder
from experiments.command_line.terminal import LINE, results
from lightning_modules.identifier import Identifier
from lightning_modules.onnx_export import export_onnx, largest_difference, likely_probes


def export_identifier(cfg: DictConfig) -> None:
    """Exports, and compares the answers of the file with those of the identifier.

    Raises:
        InputError: the identifier cannot be loaded or exported.
    """
    out = Path(cfg.out).expanduser()
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

# SPDX-License-Identifier: MIT
"""An Identifier as one ONNX file: python -m experiments.export identifier=DIR out=FILE.onnx"""

from pathlib import Path

from omegaconf import DictConfig

from datamodules.errors import InputError
from experiments.coordination.command_line import command
from experiments.coordination.schema import ExportConfig
from experiments.coordination.screen import LINE, results


@command("export", ExportConfig)
def main(cfg: DictConfig) -> None:
    """Exports, and asks the exported file and the identifier the same questions."""
    from lightning_modules.identifier import Identifier
    from lightning_modules.onnx_export import export_onnx, largest_difference, likely_probes

    out = Path(cfg.out).expanduser()
    if out.exists() and not cfg.overwrite:
        raise InputError(f"{out}, which exists", "a new file", "choose another out=, or say overwrite=true")
    if not out.parent.is_dir():
        raise InputError(f"no folder {out.parent}", "an existing folder", "make it, or choose another out=")
    identifier = Identifier.load(cfg.identifier).with_index(None)  # the file looks at all class means
    export_onnx(identifier, out)
    probes_BD = likely_probes(identifier)
    others, difference = largest_difference(identifier, out, probes_BD)
    results().print(
        f"{out}: {len(identifier.identities)} people, {identifier.dim}-d\nthrough onnxruntime {others} of "
        f"{len(probes_BD)} probes are answered otherwise; scores differ by at most {difference:.1e}",
        **LINE,
    )  # fmt: skip


if __name__ == "__main__":
    main()

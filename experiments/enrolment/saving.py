# SPDX-License-Identifier: MIT
"""Writing the changed identifier, in place of the old one where that was asked for."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from datamodules.files import replace_folder
from experiments.enrolment.newcomers import Newcomers
from lightning_modules.identifier import Identifier


def save(target: Path, identifier: Identifier, leaving: list[str], newcomers: Newcomers | None) -> None:
    """Writes an identifier that notes what was changed, whole or not at all.

    Args:
        target: the folder; replaced where it exists.
    """
    changes = identifier.provenance.get("enrolment") or []
    change = {"removed": leaving, "added": list(newcomers.names) if newcomers else []}
    noted = replace(identifier, provenance={**identifier.provenance, "enrolment": [*changes, change]})
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        noted.save(beside / "identifier")
        replace_folder(beside / "identifier", target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)

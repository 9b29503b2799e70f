# SPDX-License-Identifier: MIT
"""What can be chosen: the files of experiments/configs and what the first comment of each says."""

from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import InputError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@dataclass(frozen=True)
class Choice:
    """One file of a group.

    Attributes:
        group: the folder, and the key on the command line.
        name: what is written behind `group=`.
        about: the first comment line that is not for Hydra.
        file: where it is.
    """

    group: str
    name: str
    about: str
    file: Path


def groups() -> list[str]:
    """Names of all groups, alphabetical."""
    return sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir() and any(folder.glob("*.yaml")))


def choices(wanted: list[str] | None = None) -> list[Choice]:
    """Every choice of some groups.

    Args:
        wanted: groups in the order wanted; None for all.

    Raises:
        InputError: no such group.
    """
    known = groups()
    for group in wanted or []:
        if group not in known:
            raise InputError(f"group {group!r}", f"one of {', '.join(known)}", "correct the name")
    found = []
    for group in wanted or known:
        for file in sorted((CONFIGS / group).glob("*.yaml")):
            lines = file.read_text(encoding="utf-8").splitlines()
            about = next(line for line in lines if not line.startswith("# @package"))  # Hydra wants that line first
            found.append(Choice(group, file.stem, about.removeprefix("#").strip(), file))
    return found

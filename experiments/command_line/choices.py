# SPDX-License-Identifier: MIT
"""What can be chosen: the files of experiments/configs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError, nearest

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@dataclass(frozen=True)
class Choice:
    """A file of a group, written `group=name` on the command line.

    Attributes:
        about: the first comment line that is not for Hydra.
    """

    group: str
    name: str
    about: str
    file: Path


def groups() -> list[str]:
    """Names of all groups, in alphabetical order."""
    return sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir() and files(folder.name))


def choices(wanted: list[str] | None = None) -> list[Choice]:
    """Every choice of the groups wanted; None for all groups.

    Raises:
        InputError: no such group.
    """
    known, found = groups(), []
    for group in wanted or known:
        if group not in known:
            raise InputError(
                f"group {group!r}", f"one of {', '.join(known)}", nearest(group, known, "correct the name")
            )
        for name in files(group):
            file = CONFIGS / group / f"{name}.yaml"
            lines = file.read_text(encoding="utf-8").splitlines()
            about = next(line for line in lines if not line.startswith("# @package"))  # Hydra wants that line first
            found.append(Choice(group, name, about.removeprefix("#").strip(), file))
    return found


def files(group: str) -> list[str]:
    """Names of the files of a group, in alphabetical order."""
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


def load_node(group: str, name: str) -> DictConfig:
    """The content of `configs/<group>/<name>.yaml`.

    Raises:
        InputError: no such file; the message names the known ones.
    """
    known = files(group)
    if name not in known:
        cure = nearest(name, known, f"correct the name or add {name}.yaml")
        raise InputError(f"{group} {name!r}", f"one of {', '.join(known)}", cure)
    return OmegaConf.load(CONFIGS / group / f"{name}.yaml")


def short_name(group: str, node: dict[str, Any]) -> str:
    """The file that a node comes from, and the arguments in which the node differs from it.

    Of several files with the `_target_` of the node, it is the one with the fewest differences. If there is none, the
    name is that of the class.

    >>> short_name("loss", {"_target_": "lightning_modules.losses.arcface.ArcFace", "scale": 64.0, "margin": 0.3})
    'arcface(margin=0.3)'
    """
    target = node.get("_target_")
    contents = {name: OmegaConf.to_container(load_node(group, name)) for name in files(group)}
    found = {
        name: differing(node, content)
        for name, content in contents.items()
        if isinstance(content, dict) and content.get("_target_") == target
    }
    if not found:
        return str(target or "").rpartition(".")[2]
    name, differences = min(found.items(), key=lambda item: len(item[1]))
    return f"{name}({','.join(differences)})" if differences else name


def differing(node: dict[str, Any], content: dict[str, Any]) -> list[str]:
    """Arguments of a node that are not those of a file, as `key=value`."""
    return [f"{key}={value}" for key, value in node.items() if key not in content or content[key] != value]

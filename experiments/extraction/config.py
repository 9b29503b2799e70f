# SPDX-License-Identifier: MIT
"""Keys of the configuration of experiments.prepare, and the objects built from them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from datamodules.errors import InputError
from experiments.training.arguments import CONFIGS

if TYPE_CHECKING:
    from datamodules.alignment import Aligner
    from datamodules.extractors.base import Extractor
    from datamodules.sources.base import Source


@dataclass
class ExtractionConfig:
    """How to run; only `dtype` and `max_side` change what comes out."""

    batch_size: int = 64  # images at a time and device
    num_workers: int = 2  # processes that decode and align, per device
    shard_rows: int = 2048  # images per shard, the most that a kill can lose per device
    dtype: str = "float16"  # or float32: as which embeddings are kept
    max_side: int = 2048  # pixels; larger pictures are shrunk before a face is looked for


@dataclass
class DevicesConfig:
    """Arguments of Lightning's Trainer that say where to run."""

    accelerator: str = "auto"  # cpu, gpu, auto
    devices: Any = "auto"  # how many, or which
    strategy: str = "auto"  # ddp where there are several devices
    num_nodes: int = 1  # machines
    precision: str = "32-true"  # bf16-mixed is faster and gives slightly other embeddings


@dataclass
class PrepareConfig:
    """experiments.prepare"""

    source: Any = MISSING
    extractor: Any = MISSING
    alignment: Any = None  # None: nothing for aligned sources, else what the extractor was trained with
    out: str = MISSING  # the EmbeddingSet to make
    extraction: ExtractionConfig = field(default_factory=ExtractionConfig)
    trainer: DevicesConfig = field(default_factory=DevicesConfig)


def build_aligner(node: DictConfig | None, source: "Source | None", extractor: "Extractor") -> "Aligner":
    """The aligner that was asked for, else none for aligned images, else the extractor's own.

    Args:
        node: its missing `image_size` is the extractor's.
        source: tells whether its images are aligned already; None for pictures that are not.
    """
    if node is not None:
        size = extractor.image_size if OmegaConf.is_missing(node, "image_size") else node.image_size
        return instantiate(node, image_size=size)
    if source is not None and source.aligned:
        from datamodules.alignment import Resize  # late: it brings torch, and --help does not need it

        return Resize(extractor.image_size)
    return extractor.default_aligner()


def recipe(cfg: DictConfig) -> dict[str, Any]:
    """What `meta.json` notes so that probes can be embedded, and originals found, in the same way.

    Returns:
        {"recipe": {group: {"name": of the choice, "arguments": of its class}}} for source, extractor and alignment.
    """
    choices, noted = HydraConfig.get().runtime.choices, {}
    for group in ("source", "extractor", "alignment"):
        if cfg[group] is not None:
            given = {key: cfg[group][key] for key in cfg[group] if not OmegaConf.is_missing(cfg[group], key)}
            arguments = OmegaConf.to_container(OmegaConf.create(given), resolve=True)
            arguments.pop("_target_")
            for key in ("root", "weights", "landmarks"):  # files are found again from any folder
                if key in arguments and arguments[key] and Path(arguments[key]).expanduser().exists():
                    arguments[key] = str(Path(arguments[key]).expanduser().resolve())
            noted[group] = {"name": choices[group], "arguments": arguments}
    return {"recipe": noted}


def from_recipe(noted: dict[str, Any], group: str) -> Any:
    """The node of the group source, extractor or alignment that a recipe noted; None where it says nothing of it.

    Anybody may have written the recipe: only choices of `experiments/configs` and arguments that they have are taken.

    Raises:
        InputError: an unknown choice or argument.
    """
    entry = noted.get(group) if isinstance(noted, dict) else None
    if entry is None:
        return None
    name, arguments = (entry.get("name"), entry.get("arguments")) if isinstance(entry, dict) else (None, None)
    known = {path.stem: path for path in (CONFIGS / group).glob("*.yaml")}
    if name not in known or not isinstance(arguments, dict):
        raise InputError(f"a recipe with {group} {name!r}", f"one of {', '.join(sorted(known))}", f"name {group}=")
    node = OmegaConf.load(known[name])
    if unknown := sorted(set(arguments) - set(node) | {"_target_"} & set(arguments)):
        raise InputError(f"a recipe with {group}.{unknown[0]}", f"keys of {group}/{name}.yaml", f"name {group}={name}")
    return OmegaConf.merge(node, arguments)

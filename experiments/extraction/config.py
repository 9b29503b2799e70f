# SPDX-License-Identifier: MIT
"""Keys of the configuration of experiments.prepare, and the objects built from them."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from datamodules.alignment import Aligner, Resize
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


def build_aligner(node: DictConfig | None, source: Source | None, extractor: Extractor) -> Aligner:
    """The aligner that was asked for, else none for aligned images, else the extractor's own.

    Args:
        node: of the group `alignment`, or None; its missing `image_size` is the extractor's.
        source: tells whether its images are aligned already; None for pictures that are not.
        extractor: tells what it expects.
    """
    if node is not None:
        size = extractor.image_size if OmegaConf.is_missing(node, "image_size") else node.image_size
        return instantiate(node, image_size=size)
    if source is not None and source.aligned:
        return Resize(extractor.image_size)
    return extractor.default_aligner()


def recipe(cfg: DictConfig) -> dict[str, Any]:
    """What `meta.json` notes so that probes can be embedded in the same way: names of choices, and arguments."""
    choices = HydraConfig.get().runtime.choices
    noted = {}
    for group in ("extractor", "alignment"):
        if cfg[group] is not None:
            arguments = {key: cfg[group][key] for key in cfg[group] if not OmegaConf.is_missing(cfg[group], key)}
            arguments = OmegaConf.to_container(OmegaConf.create(arguments), resolve=True)
            arguments.pop("_target_")
            noted[group] = {"name": choices[group], "arguments": arguments}
    return {"recipe": noted}

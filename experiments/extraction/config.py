# SPDX-License-Identifier: MIT
"""Keys of experiments.prepare, and the extractor and aligner that a configuration or a recipe names."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from datamodules.errors import InputError
from experiments.command_line.choices import files, load_node

if TYPE_CHECKING:
    from datamodules.alignment import Aligner
    from datamodules.extractors.base import Extractor
    from datamodules.sources.base import Source
    from lightning_modules.identifier import Identifier


@dataclass
class ExtractionConfig:
    """How to run; only `dtype` and `max_side` change what comes out."""

    batch_size: int = 64  # images at a time and device
    num_workers: int = 2  # processes that decode and align, per device
    shard_rows: int = 2048  # images per shard, the most that a kill can lose per device
    dtype: str = "float16"  # or float32: as which embeddings are kept
    max_side: int = 2048  # pixels; larger pictures are shrunk before a face is looked for

    def __post_init__(self):
        for key, low in (("batch_size", 1), ("num_workers", 0), ("shard_rows", 1), ("max_side", 32)):
            if (value := getattr(self, key)) < low:
                raise InputError(f"extraction.{key} = {value}", f"at least {low}", f"raise extraction.{key}")
        if self.dtype not in ("float16", "float32"):
            raise InputError(f"extraction.dtype = {self.dtype!r}", "float16 or float32", "choose one of them")


@dataclass
class DevicesConfig:
    """Arguments of Lightning's Trainer that say where to run."""

    accelerator: str = "auto"  # cpu, gpu, auto
    devices: Any = "auto"  # how many, or which
    strategy: str = "auto"  # ddp with several devices
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

    @staticmethod
    def unneeded(cfg: DictConfig) -> tuple[tuple[str, ...], str]:
        """Keys of no use beside the others, and why."""
        arrays = cfg.source.get("_target_", "").endswith(".Arrays")
        return ("extractor", "alignment") if arrays else (), "source=arrays has embeddings already"


def build_aligner(node: DictConfig | None, source: "Source | None", extractor: "Extractor") -> "Aligner":
    """The aligner of a node, else none for a source of aligned images, else the extractor's own.

    A missing `image_size` of the node becomes that of the extractor.
    """
    if node is not None:
        size = extractor.image_size if OmegaConf.is_missing(node, "image_size") else node.image_size
        return instantiate(node, image_size=size)
    if source is not None and source.aligned:
        from datamodules.alignment import Resize  # late: it imports torch, which --help does not need

        return Resize(extractor.image_size)
    return extractor.default_aligner()


def enrolled_extractor(
    cfg: DictConfig, recipe: dict[str, Any], identifier: "Identifier", source: "Source | None" = None
) -> tuple["Extractor", "Aligner"]:
    """Extractor and aligner that the command names, or else those of the enrolled pictures.

    Raises:
        InputError: neither names an extractor, or its weights are not those of the enrolled pictures.
    """
    node = from_recipe(recipe, "extractor") if cfg.extractor is None else cfg.extractor
    if node is None:
        raise InputError(
            "an identifier that does not say how its pictures were embedded",
            "extractor=NAME, or gallery=SET with the EmbeddingSet of experiments.prepare",
            "name the extractor of the enrolled pictures",
        )
    extractor, stated = instantiate(node), identifier.provenance.get("extractor")
    if stated and extractor.fingerprint() != stated:
        got, expected = f"extractor {extractor.fingerprint()}", f"{stated}, that of the enrolled pictures"
        raise InputError(got, expected, "name that one, with its weights")
    node = from_recipe(recipe, "alignment") if cfg.alignment is None else cfg.alignment
    return extractor, build_aligner(node, source, extractor)


def recipe(cfg: DictConfig) -> dict[str, Any]:
    """Facts for `meta.json`, so that later commands embed probes, and find the originals, in the same way.

    Returns:
        {"recipe": {group: {"name": of the choice, "arguments": of its class}}} for source, extractor and alignment.
    """
    choices, noted = HydraConfig.get().runtime.choices, {}
    for group in ("source", "extractor", "alignment"):
        if cfg[group] is not None:
            given = {key: cfg[group][key] for key in cfg[group] if not OmegaConf.is_missing(cfg[group], key)}
            arguments = OmegaConf.to_container(OmegaConf.create(given), resolve=True)
            arguments.pop("_target_")
            for key in ("root", "weights", "landmarks"):  # absolute, so that any folder will do later
                if arguments.get(key) and Path(arguments[key]).expanduser().exists():
                    arguments[key] = str(Path(arguments[key]).expanduser().resolve())
            noted[group] = {"name": choices[group], "arguments": arguments}
    return {"recipe": noted}


def from_recipe(noted: dict[str, Any], group: str) -> Any:
    """The node of the group source, extractor or alignment that a recipe notes, or None.

    The recipe may come from anybody: choices that are not in `experiments/configs`, and arguments that those do not
    have, are refused.
    """
    entry = noted.get(group) if isinstance(noted, dict) else None
    if entry is None:
        return None
    name, arguments = (entry.get("name"), entry.get("arguments")) if isinstance(entry, dict) else (None, None)
    if name not in files(group) or not isinstance(arguments, dict):
        raise InputError(f"a recipe with {group} {name!r}", f"one of {', '.join(files(group))}", f"name {group}=")
    node = load_node(group, name)
    if unknown := sorted(set(arguments) - set(node) | {"_target_"} & set(arguments)):
        raise InputError(f"a recipe with {group}.{unknown[0]}", f"keys of {group}/{name}.yaml", f"name {group}={name}")
    return OmegaConf.merge(node, arguments)

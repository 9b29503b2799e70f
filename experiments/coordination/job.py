# SPDX-License-Identifier: MIT
"""Job: everything a worker needs to train one sub-network, as plain values; and what it leaves on disk."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from datamodules.files import read_json, sha256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How sub-networks are trained; with the partition and the data it fixes the weights.

    Attributes:
        loss, init, optimizer: Hydra nodes with `_target_`.
        trainer: the values of `schema.TrainerConfig`.
        seed: of initial weights and batch order.
        active_classes: Hydra node, which classes compete in a step.
    """

    loss: dict[str, Any]
    init: dict[str, Any]
    optimizer: dict[str, Any]
    trainer: dict[str, Any]
    seed: int
    active_classes: dict[str, Any] = field(
        default_factory=lambda: {"_target_": "lightning_modules.active_classes.EveryClass"}
    )

    # What changes where or how fast a sub-network is trained, but not its weights, stays out of the key.
    _not_in_key = ("accelerator", "threads", "max_logits_mb", "strategy", "devices", "checkpoint_every_n_epochs")

    def key(self, data: str, partition: str) -> str:
        """A hash of recipe, data fingerprint and partition hash: equal keys mean equal weights."""
        trainer = {name: value for name, value in self.trainer.items() if name not in self._not_in_key}
        content = json.dumps({**asdict(self), "trainer": trainer, "data": data, "partition": partition}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Job:
    """One sub-network to train. Plain values only: a launcher sends it to another process as JSON.

    Attributes:
        run: name of the run, the group of its dashboard.
        run_folder: absolute path of the run folder.
        data: folder of the EmbeddingSet.
        split: arguments of `datamodules.splits.split_identities`.
        partition: folder of the Partition.
        cluster: which cluster to train.
        recipe: how.
        key: `Recipe.key` of data and partition.
        title: what people call it, such as "omniglot N=1623 kmeans m=2 seed 0 cluster 1".
        tracking: Hydra node of the tracking.
        facts: labels for the dashboard: data set, N, m, partitioner.
    """

    run: str
    run_folder: str
    data: str
    split: dict[str, Any]
    partition: str
    cluster: int
    recipe: Recipe
    key: str
    title: str
    tracking: dict[str, Any]
    facts: dict[str, Any]

    @property
    def stem(self) -> Path:
        """Path without suffix of the files this job leaves: `.safetensors` (weights) and `.json` (record)."""
        return Path(self.run_folder) / "subnetworks" / self.key / f"{self.cluster:05d}"

    @cached_property
    def identifier(self) -> str:
        """A name that is the same for the same sub-network of the same run, wherever and however often it runs."""
        return hashlib.sha256(f"{self.run_folder}/{self.key}/{self.cluster}".encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """The job as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The job that `to_json` wrote."""
        content = json.loads(text)
        return cls(**{**content, "recipe": Recipe(**content["recipe"])})

    def record(self) -> dict[str, Any] | None:
        """What the finished job wrote about itself; None where it is not finished or its weights are not intact."""
        record_file, weights = self.stem.with_suffix(".json"), self.stem.with_suffix(".safetensors")
        if not (record_file.is_file() and weights.is_file()):
            return None
        try:
            record = read_json(record_file)
        except InputError as error:
            log.warning("%s; the sub-network is trained again", error)
            return None
        return record if record.get("sha256") == sha256(weights) else None

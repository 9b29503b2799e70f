# SPDX-License-Identifier: MIT
"""Base of the rival systems of the table. Axes: N samples, B probes, K identities, D embedding dimension."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from datamodules.partitioners.base import Partition, Partitioner
from datamodules.partitioners.samples import TrainingSamples
from lightning_modules.baselines.multilabel_base import Infeasible
from lightning_modules.decisions.base import Decided
from lightning_modules.initialisers import Initialiser
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.scores import Heads, unit_probes
from lightning_modules.subnetwork import SubNetwork

__all__ = ["Baseline", "ByScore", "Infeasible", "Predictor", "BaselineTask", "unit_rows"]

BLOCK_ELEMENTS = 1 << 24  # scores computed at a time: 64 MiB of float32


@dataclass(frozen=True)
class BaselineTask:
    """The data that a baseline learns from, and the training of networks for it.

    `train_network` trains a network on all training samples by the comparison's Trainer settings, in batches of (B, D)
    unit embeddings, (B,) int64 targets and (B,) lengths, and leaves it on the CPU. Its second argument maps identities
    to targets, (K,) int64; None means the identities themselves. Its third gives networks of a baseline different batch
    orders.
    """

    train: TrainingSamples
    val: TrainingSamples  # may be empty
    class_means_KD: np.ndarray  # float32, of unit length, of the training samples
    n_subnets: int  # m, the number of parts of the table's scenarios
    seed: int
    loss: ClassificationLoss
    init: Initialiser
    optimizer: Callable[[Any], Optimizer]
    train_network: Callable[[SubNetwork, np.ndarray | None, int], None]
    ensembles: tuple[tuple[Partition, Heads], ...] = ()  # trained for each of `Baseline.partitioners`
    precision: str = "highest"
    max_logits_bytes: int = 1 << 30

    @property
    def n_identities(self) -> int:
        """K, the number of enrolled identities."""
        return len(self.class_means_KD)

    def generator(self, stream: int = 0) -> torch.Generator:
        """Random numbers of this baseline, the same for the same seed."""
        seed = np.random.SeedSequence([self.seed, stream, 6]).generate_state(1, np.uint64)[0] >> 1
        return torch.Generator().manual_seed(int(seed))


class Predictor(ABC):
    """A fitted baseline. `partition` has one cluster that holds everybody, since a baseline routes nothing.

    Args:
        parameters: numbers that it keeps to name probes, class means included if it reads them.
    """

    def __init__(self, n_identities: int, parameters: int):
        self.partition = Partition(np.zeros(n_identities, np.int32), 1)
        self.parameters = parameters

    @abstractmethod
    def answer(self, probes_BD: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) int64 identities of (B, D) float32 unit probes, and (B,) scores, higher is more certain."""

    @torch.inference_mode()
    def decide(self, probes_BD: Tensor) -> Decided:
        """Names probes (B, D) of any length, block by block."""
        step = max(1, BLOCK_ELEMENTS // self.partition.n_identities)
        parts = [self.answer(block) for block in torch.split(unit_probes(probes_BD), step)]
        identity_B, score_B = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        return Decided(identity_B, score_B.float(), torch.zeros_like(identity_B))


class ByScore(Predictor):
    """Answers the identity of the highest of the (B, K) `scores` of (B, D) unit probes."""

    def __init__(self, scores: Callable[[Tensor], Tensor], n_identities: int, parameters: int):
        super().__init__(n_identities, parameters)
        self.scores = scores

    def answer(self, probes_BD: Tensor) -> tuple[Tensor, Tensor]:
        score_B, identity_B = self.scores(probes_BD).max(1)
        return identity_B, score_B


class Baseline(ABC):
    """Base of all baselines: hyper-parameters in `__init__`, data in `fit`, nothing kept between two fits."""

    def partitioners(self) -> list[Partitioner]:
        """Partitions whose sub-networks must be trained before `fit`, as those of any scenario; usually none."""
        return []

    @abstractmethod
    def fit(self, task: BaselineTask) -> Predictor:
        """Learns. Raises Infeasible, with the reason: it cannot do with data of this size, or with this loss."""


def unit_rows(samples: TrainingSamples) -> tuple[Tensor, Tensor]:
    """All samples at once: (N, D) float32 rows of unit length and (N,) int64 identities."""
    rows_ND, labels_N = samples.drawn(len(samples), 0)
    return torch.from_numpy(rows_ND), torch.from_numpy(labels_N.astype(np.int64))

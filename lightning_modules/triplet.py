# SPDX-License-Identifier: MIT
"""Triplet loss on mined triplets.

Schroff, Kalenichenko & Philbin, "FaceNet" (CVPR 2015), equation 3: the mean over triplets of
max(|a - p|^2 - |a - n|^2 + alpha, 0), on embeddings of unit length, so that distances are in [0, 4].

Axes: B batch, D dimension of the embedding, T triplets.
"""

from collections.abc import Callable, Iterable

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

ANCHORS = 128  # mined at a time: the miners enumerate anchors x positives x negatives

Triplets = tuple[Tensor, Tensor, Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def squared_distances(z_BD: Tensor) -> Tensor:
    """Squared distances of all pairs of unit vectors: (B, B), 2 - 2 cos."""
    return 2 - 2 * z_BD @ z_BD.T


def triplet_loss(distance_BB: Tensor, triplets: Triplets, alpha: float) -> Tensor:
    """The mean of max(d(a, p) - d(a, n) + alpha, 0) over triplets, a scalar; 0 if there is none."""
    anchor_T, positive_T, negative_T = triplets
    excess_T = distance_BB[anchor_T, positive_T] - distance_BB[anchor_T, negative_T] + alpha
    return torch.relu(excess_T).sum() / max(len(excess_T), 1)


@torch.no_grad()
def mine(miner: Callable[..., Triplets], z_BD: Tensor, label_B: Tensor, anchors: int = ANCHORS) -> Triplets:
    """(T,) anchors, positives and negatives that a miner of pytorch-metric-learning finds in unit rows, as indices.

    It sees some anchors at a time, so that batches of 1,800 fit in memory.
    """
    found: list[Triplets] = []
    for start in range(0, len(z_BD), anchors):
        part = slice(start, start + anchors)
        anchor_T, positive_T, negative_T = miner(z_BD[part], label_B[part], z_BD, label_B)
        # Seen from a part of the batch, an anchor is a positive of its own.
        proper = anchor_T + start != positive_T
        found.append((anchor_T[proper] + start, positive_T[proper], negative_T[proper]))
    anchors_T, positives_T, negatives_T = zip(*found, strict=True)
    return torch.cat(anchors_T), torch.cat(positives_T), torch.cat(negatives_T)


class TripletModule(LightningModule):
    """Trains a network by triplets mined inside each batch.

    Logs per epoch train/loss, train/triplets (mined per batch) and train/active (share of them with a loss above 0).

    Args:
        network: from a batch of samples to (B, D) rows of unit length.
        alpha: margin of the squared distance.
    """

    def __init__(self, network: nn.Module, miner: nn.Module, alpha: float, optimizer: MakeOptimizer):
        super().__init__()
        self.network, self.miner, self.alpha, self.optimizer = network, miner, alpha, optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        samples, label_B = batch
        z_BD = self.network(samples).float()
        triplets = mine(self.miner, z_BD, label_B)
        distance_BB = squared_distances(z_BD)
        loss = triplet_loss(distance_BB, triplets, self.alpha)
        count = len(triplets[0])
        with torch.no_grad():
            excess_T = distance_BB[triplets[0], triplets[1]] - distance_BB[triplets[0], triplets[2]] + self.alpha
            active = (excess_T > 0).float().mean() if count else torch.zeros(())
        values: dict[str, Tensor | float] = {
            "train/loss": loss.detach(), "train/triplets": float(count), "train/active": active,
        }  # fmt: skip
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(label_B))
        return loss

    def predict_step(self, batch: tuple[Tensor, Tensor], _index: int) -> tuple[Tensor, Tensor]:
        """(B, D) float32 embeddings of unit length and (B,) labels."""
        return self.network(batch[0]).float(), batch[1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.network.parameters())

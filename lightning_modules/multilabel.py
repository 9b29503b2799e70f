# SPDX-License-Identifier: MIT
"""Multi-label classification with clustered labels: scatter-add reduction, the perceptron of a cluster, its training.

Nasiri & Daneshpour, Signal and Data Processing 22(2), 2025.

Axes: N rows, B batch, F features, K feature clusters (inputs of every network), L labels (outputs of a network).
"""

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


def scatter_add(features_NF: Tensor, cluster_of_F: Tensor, n_clusters: int) -> Tensor:
    """Feature c of the result, (N, K) of the type of the features, is the sum of all features of cluster c.

    >>> scatter_add(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([1, 0, 1]), 2)
    tensor([[2., 5.]])
    """
    return features_NF.new_zeros(len(features_NF), n_clusters).index_add_(1, cluster_of_F, features_NF)


class Perceptron(nn.Sequential):
    """A multi-layer perceptron: hidden layers with ReLU and dropout, logits of L labels.

    Args:
        hidden: units of each of the hidden layers, of which there is at least 1.
        dropout: share of hidden units that a training step leaves out.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 256, hidden_layers: int = 1, dropout: float = 0.0):
        widths = [inputs] + [hidden] * hidden_layers
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:]):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(hidden, outputs))


class LabelNetwork(pl.LightningModule):
    """Trains a network from (B, K) inputs to (B, L) logits; logs train/loss and val/loss in nats per row.

    The loss is the binary cross-entropy, summed over labels: labels without common weights train as if alone.
    """

    def __init__(self, network: nn.Module, learning_rate: float):
        super().__init__()
        self.network, self.learning_rate = network, learning_rate

    def forward(self, inputs_BK: Tensor) -> Tensor:
        """Logits: (B, L)."""
        return self.network(inputs_BK)

    def _loss(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        inputs_BK, labels_BL = batch
        loss = binary_cross_entropy_with_logits(self(inputs_BK), labels_BL, reduction="sum") / len(labels_BL)
        self.log(f"{stage}/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(labels_BL))
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """The loss of a batch of inputs and labels (0 or 1, float)."""
        return self._loss(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        self._loss(batch, "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


@torch.no_grad()
def probabilities(network: nn.Module, inputs_NK: Tensor, rows_at_once: int = 1024) -> Tensor:
    """Probability of every label for every row: (N, L) float32 on the CPU. Leaves the network in evaluation mode."""
    network = network.cpu().eval()
    return torch.cat([torch.sigmoid(network(rows_BK)) for rows_BK in inputs_NK.split(rows_at_once)])

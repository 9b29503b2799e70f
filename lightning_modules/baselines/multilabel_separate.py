# SPDX-License-Identifier: MIT
"""Binary relevance with the same perceptron: one network per label, nothing shared, a stack of them trained at once.

Axes: B batch, K inputs, L labels, H hidden units.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout


class SeparatePerceptrons(nn.Module):
    """L perceptrons of one output each, computed together by batched products.

    Equal to L `Perceptron`s: same layers, same distribution of initial weights.

    Args:
        inputs: K.
        outputs: L, the number of networks.
        hidden: units of each hidden layer of each network.
        hidden_layers: how many, at least 1.
        dropout: share of hidden units that a training step leaves out.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 256, hidden_layers: int = 1, dropout: float = 0.0):
        super().__init__()
        self.outputs, self.hidden, self.dropout = outputs, hidden, dropout
        self.first = nn.Linear(inputs, outputs * hidden)
        self.weights_LHH = nn.ParameterList(_uniform(hidden, outputs, hidden, hidden) for _ in range(hidden_layers - 1))
        self.biases_L1H = nn.ParameterList(_uniform(hidden, outputs, 1, hidden) for _ in range(hidden_layers - 1))
        self.last_LH1, self.last_bias_L = _uniform(hidden, outputs, hidden, 1), _uniform(hidden, outputs)

    def forward(self, inputs_BK: Tensor) -> Tensor:
        """Logits: (B, L)."""
        units_BLH = self.first(inputs_BK).unflatten(1, (self.outputs, self.hidden))
        units_LBH = self._activate(units_BLH).transpose(0, 1)
        for weights_LHH, biases_L1H in zip(self.weights_LHH, self.biases_L1H, strict=True):
            units_LBH = self._activate(torch.baddbmm(biases_L1H, units_LBH, weights_LHH))
        return torch.bmm(units_LBH, self.last_LH1).squeeze(2).T + self.last_bias_L

    def _activate(self, units: Tensor) -> Tensor:
        return dropout(torch.relu(units), self.dropout, self.training)


def _uniform(fan_in: int, *shape: int) -> nn.Parameter:
    """The initial weights of nn.Linear: uniform within 1 / sqrt(fan_in)."""
    return nn.Parameter(torch.empty(shape).uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)))

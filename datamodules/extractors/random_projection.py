# SPDX-License-Identifier: MIT
"""A fixed random projection of the pixels: the extractor for tests and for trying out a data set."""

import hashlib

import torch
from torch import Tensor

from datamodules.extractors.base import Extractor


class RandomProjectionExtractor(Extractor):
    """Pixels, minus the picture's mean, times a Gaussian matrix, which nearly keeps angles (Johnson & Lindenstrauss).

    Args:
        image_size: side of the input in pixels.
    """

    matrix: Tensor

    def __init__(self, embedding_dim: int = 64, image_size: int = 32, channel_order: str = "RGB", seed: int = 0):
        super().__init__(
            name="random_projection", embedding_dim=embedding_dim, image_size=image_size, channel_order=channel_order,
            value_range=(-1.0, 1.0),
        )  # fmt: skip
        pixels, generator = 3 * self.image_size**2, torch.Generator().manual_seed(seed)
        self.register_buffer("matrix", torch.randn(pixels, self.embedding_dim, generator=generator) / pixels**0.5)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        flat = x_BCHW.flatten(1)
        return (flat - flat.mean(dim=1, keepdim=True)) @ self.matrix

    def weights_digest(self) -> str:
        return hashlib.sha256(self.matrix.cpu().numpy().tobytes()).hexdigest()

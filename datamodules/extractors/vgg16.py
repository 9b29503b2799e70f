# SPDX-License-Identifier: MIT
"""VGG16 of ImageNet: its convolutional output with global average pooling."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

from datamodules.extractors.base import Extractor, load_weights, seeded, state_digest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VGG16Extractor(Extractor):
    """512-d features of the last convolutional block (Simonyan & Zisserman 2015), averaged over the picture.

    Args:
        weights: "pretrained" (torchvision's IMAGENET1K_V1, downloaded once), "random", or a file with the state dict
            of torchvision's vgg16 or of its `features` alone.
        image_size: side of the input in pixels; the weights were trained with 224.
        fraction: share of the shorter side that the crop keeps.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, weights: str | Path = "pretrained", image_size: int = 224, fraction: float = 0.875, seed: int = 0
    ):
        super().__init__(
            name="vgg16", embedding_dim=512, image_size=image_size, channel_order="RGB", value_range=(0.0, 1.0)
        )
        self.fraction = fraction
        # Only the convolutions: the classifier has nine tenths of the weights.
        with seeded(seed):
            self.features = make_layers(cfgs["D"])
            for layer in self.features.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                    assert layer.bias is not None
                    nn.init.zeros_(layer.bias)
        published = VGG16_Weights.IMAGENET1K_V1
        load_weights(
            self.features,
            weights,
            lambda: published.get_state_dict(progress=True, check_hash=True, weights_only=True),
            f"{Path(published.url).name} of {published.url} in {Path(torch.hub.get_dir()) / 'checkpoints'}",
            _features_only,
        )
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        return self.features((x_BCHW - self.mean) / self.std).mean(dim=(2, 3))

    def weights_digest(self) -> str:
        return state_digest(self.features)


def _features_only(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    chosen = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    return chosen or dict(state)

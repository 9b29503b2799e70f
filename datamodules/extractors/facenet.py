# SPDX-License-Identifier: MIT
"""InceptionResnetV1 of facenet-pytorch, the extractor of the paper."""

from collections.abc import Mapping
from pathlib import Path

from facenet_pytorch import InceptionResnetV1
from facenet_pytorch.models.inception_resnet_v1 import get_torch_home
from torch import Tensor

from datamodules.alignment import Aligner, MTCNNAligner
from datamodules.errors import InputError
from datamodules.extractors.base import Extractor, load_weights, seeded

FILES = {"vggface2": "20180402-114759-vggface2.pt", "casia-webface": "20180408-102900-casia-webface.pt"}
RELEASE = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9"


class FaceNetExtractor(Extractor):
    """512-d embeddings of unit length; LFW verification 99.65 % (vggface2) or 99.05 % (casia-webface), as published.

    Args:
        trained_on: which published weights: "vggface2" or "casia-webface".
        weights: "pretrained" (facenet-pytorch's own download), "random", or a file with the state dict.
        image_size: side of the input in pixels; the weights were trained with 160.
        margin: share of the crop's side that is added around MTCNN's box.
    """

    def __init__(
        self, trained_on: str = "vggface2", weights: str | Path = "pretrained", image_size: int = 160,
        margin: float = 0.2, seed: int = 0,
    ):  # fmt: skip
        if trained_on not in FILES:
            raise InputError(f"extractor.trained_on = {trained_on!r}", " or ".join(FILES), "choose one of them")
        # facenet-pytorch's fixed_image_standardization: (pixel - 127.5) / 128
        super().__init__(
            name=f"facenet-{trained_on}", embedding_dim=512, image_size=image_size, channel_order="RGB",
            value_range=(-127.5 / 128, 127.5 / 128),
        )  # fmt: skip
        self.margin = margin
        with seeded(seed):
            self.network = InceptionResnetV1()
        file = FILES[trained_on]
        load_weights(
            self.network, weights, lambda: InceptionResnetV1(pretrained=trained_on).state_dict(),
            f"{file} of {RELEASE} in {Path(get_torch_home()) / 'checkpoints'}", _without_classifier,
        )  # fmt: skip
        self.eval().requires_grad_(False)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        return self.network(x_BCHW)

    def default_aligner(self) -> Aligner:
        return MTCNNAligner(self.image_size, crop="box", margin=self.margin)


def _without_classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("logits.")}

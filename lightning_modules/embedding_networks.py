# SPDX-License-Identifier: MIT
"""Networks that are trained to embed: from embeddings or images to rows of unit length.

Axes: B batch, D dimension of the new embedding, S side of an image.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.errors import InputError
from lightning_modules.kernels import unit_rows


class Unchanged(nn.Module):
    """Given embeddings as they are, to compare training with."""

    takes = "embeddings"

    def forward(self, x: Tensor) -> Tensor:
        """From (B, D) embeddings of any length to rows of unit length."""
        return unit_rows(x)


class Projection(nn.Module):
    """A linear map of given embeddings, or one with a hidden ReLU layer.

    Args:
        hidden: units of the hidden layer; 0 for none.
    """

    takes = "embeddings"

    def __init__(self, dim: int = 128, hidden: int = 0):
        super().__init__()
        layers = [nn.LazyLinear(hidden), nn.ReLU(), nn.Linear(hidden, dim)] if hidden else [nn.LazyLinear(dim)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, any dimension) embeddings of any length to (B, D) rows of unit length."""
        return F.normalize(self.layers(unit_rows(x)))


class ImageNetwork(nn.Module):
    """Base of networks on images.

    Args:
        network: from (B, 3, S, S) to (B, D).
        image_size: S, in pixels.
        mean, std: of red, green, blue in the training data, for pixels in [0, 1].
    """

    takes = "images"
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, image_size: int, mean: Any, std: Any):
        super().__init__()
        self.network, self.image_size = network, image_size
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, Tensor(list(value)).view(1, 3, 1, 1), persistent=False)

    def forward(self, images_BSSC: Tensor) -> Tensor:
        """From (B, S, S, 3) uint8 RGB to (B, D) rows of unit length."""
        x_BCSS = images_BSSC.permute(0, 3, 1, 2).float() / 255
        return F.normalize(self.network((x_BCSS - self.mean) / self.std))


class InceptionResnet(ImageNetwork):
    """facenet-pytorch's InceptionResnetV1 on 160 x 160 pixels.

    Args:
        weights: "random", or "vggface2" or "casia-webface", which facenet-pytorch downloads.
        dropout: of the layer before the embedding, in [0, 1).
    """

    def __init__(self, weights: str = "random", dropout: float = 0.6):
        from facenet_pytorch import InceptionResnetV1

        if weights not in ("random", "vggface2", "casia-webface"):
            raise InputError(f"network.weights = {weights!r}", "random, vggface2 or casia-webface", "correct it")
        try:
            network = InceptionResnetV1(pretrained=None if weights == "random" else weights, dropout_prob=dropout)
        except OSError as error:
            got, cure = f"no weights {weights} ({error})", "use network.weights=random"
            raise InputError(got, "a download by facenet-pytorch", cure) from None
        super().__init__(network, 160, mean=[127.5 / 255] * 3, std=[128 / 255] * 3)


class TimmNetwork(ImageNetwork):
    """Any network of timm with a linear layer to the embedding.

    Args:
        image_size: S in pixels; None takes timm's.
    """

    def __init__(
        self, model: str = "resnet18", dim: int = 128, image_size: int | None = None, pretrained: bool = False
    ):
        try:
            import timm
        except ImportError:
            raise InputError("no package timm", "timm for this network", "pip install 'clusterface[timm]'") from None
        if not timm.is_model(model):
            raise InputError(f"network.model = {model!r}", "a model of timm", "see timm.list_models()")
        try:
            network = timm.create_model(model, pretrained=pretrained, num_classes=dim)
        except (OSError, RuntimeError) as error:  # no connection, or no published weights
            got = f"{model} without weights ({' '.join(str(error).split())[:160]})"
            raise InputError(got, "a download by timm", "use network.pretrained=false") from None
        stated = timm.data.resolve_model_data_config(network)
        super().__init__(network, image_size or stated["input_size"][-1], stated["mean"], stated["std"])

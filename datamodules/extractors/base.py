# SPDX-License-Identifier: MIT
"""Extractor: a frozen network from images to embeddings, and the input that it expects.

Axes: B batch, C = 3 channels, H = W = image_size, D embedding dimension. images_BHWC are (B, H, W, 3) uint8 RGB,
cropped by an aligner; x_BCHW is (B, 3, H, W) float32 in `value_range` and `channel_order`; embeddings are (B, D)
floats, not necessarily normalised.
"""

import hashlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from datamodules.alignment import Aligner, Resize
from datamodules.errors import InputError, one_line

logger = logging.getLogger(__name__)


class Extractor(nn.Module, ABC):
    """Base of all extractors.

    Args:
        image_size: side of the square input in pixels.
        channel_order: "RGB" or "BGR", as in the network's training.
        value_range: the numbers that pixel values 0 and 255 become, such as (0.0, 1.0).

    Attributes:
        network: the weights, if they are a PyTorch module.
        fraction: share of a picture's shorter side that the default aligner keeps.
    """

    network: Any
    fraction = 1.0

    def __init__(
        self, *, name: str, embedding_dim: int, image_size: int, channel_order: str, value_range: tuple[float, float]
    ):
        super().__init__()
        if channel_order not in ("RGB", "BGR"):
            raise InputError(f"channel_order = {channel_order!r}", "RGB or BGR", "see how the network was trained")
        low, high = (float(value) for value in value_range)
        if not low < high:
            raise InputError(f"value_range = {low:g} to {high:g}", "low < high", "see how the network was trained")
        self.name, self.embedding_dim, self.image_size = name, int(embedding_dim), int(image_size)
        self.channel_order, self.value_range = channel_order, (low, high)
        self._fingerprint = ""

    @abstractmethod
    def embed(self, x_BCHW: Tensor) -> Tensor:
        """The network: (B, D) embeddings, row i of image i only."""

    def weights_digest(self) -> str:
        """A hash of the weights, in hexadecimal."""
        return state_digest(self.network)

    def default_aligner(self) -> Aligner:
        """The crop that the network expects; here the centre of the picture."""
        return Resize(self.image_size, self.fraction)

    def train(self, mode: bool = True) -> "Extractor":
        """Stays in evaluation mode: the network is frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, D) embeddings of prepared input, in evaluation mode and without gradient; refuses other shapes."""
        expected = (3, self.image_size, self.image_size)
        if x_BCHW.ndim != 4 or tuple(x_BCHW.shape[1:]) != expected:
            raise ValueError(f"images of shape {tuple(x_BCHW.shape)}, {self.name} takes {('B', *expected)}")
        self.eval()
        return self.embed(x_BCHW)

    def to_input(self, images_BHWC: Tensor) -> Tensor:
        """8-bit images in the order and range that the network expects: (B, 3, H, W) on the same device."""
        x_BCHW = images_BHWC.permute(0, 3, 1, 2)
        x_BCHW = (x_BCHW.flip(1) if self.channel_order == "BGR" else x_BCHW).contiguous().float()
        low, high = self.value_range
        return x_BCHW * ((high - low) / 255) + low

    def embed_images(self, images_BHWC: Tensor) -> Tensor:
        """From 8-bit images to (B, D) embeddings."""
        return self(self.to_input(images_BHWC))

    def check_tells_apart(self, got: str, cure: str) -> None:
        """Embeds two unlike pictures; refuses a network, called `got`, to which they are the same."""
        pixels = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3), np.uint8).repeat(16, 1).repeat(16, 2)
        rows = np.arange(self.image_size) * pixels.shape[1] // self.image_size
        z = self.embed_images(torch.from_numpy(pixels[:, rows][:, :, rows])).double()
        cosine = torch.nn.functional.cosine_similarity(z[0], z[1], dim=0)
        if not torch.isfinite(z).all() or not cosine < 1 - 1e-5:
            got = f"{got}, which gives two unlike pictures the same embedding (cosine {cosine:.7f})"
            raise InputError(got, "a trained network and the normalisation that it was trained with", cure)

    def fingerprint(self) -> str:
        """Name and hash of weights and input format: the key of all caches."""
        if not self._fingerprint:
            stated = f"{self.embedding_dim} {self.image_size} {self.channel_order} {self.value_range}"
            digest = hashlib.sha256(f"{self.weights_digest()} {stated}".encode()).hexdigest()[:16]
            self._fingerprint = f"{self.name}-{digest}"
        return self._fingerprint


def state_digest(network: nn.Module) -> str:
    """SHA-256 over names, shapes, types and values of all weights and buffers."""
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def existing_file(path: Path | str | None, what: str) -> Path:
    """The path of a weights file; refuses none, and a missing one. `what` describes it, "an ONNX file of ..."."""
    if not path:
        raise InputError("no extractor.weights", what, "add extractor.weights=FILE")
    if not (file := Path(os.path.expanduser(path))).is_file():
        raise InputError(f"no file {file}", what, "check extractor.weights")
    return file


def load_weights(
    network: nn.Module, weights: Path | str, download: Callable[[], Mapping[str, Tensor]], source: str,
    select: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
) -> None:  # fmt: skip
    """Loads the `weights` of a PyTorch extractor; nothing is unpickled.

    Args:
        weights: "pretrained" for the published weights, "random" for an untrained network (tests, baselines), or a file
            with a state dict: .pt, .pth or .safetensors.
        download: returns the published weights; any error is reported as a failed download.
        source: origin and place of the published file, for the error.
        select: picks and renames the entries of `network`.

    Raises:
        InputError: the download failed, or the file is missing, damaged or of another network.
    """
    if weights == "random":
        logger.warning("random weights, as asked: the embeddings say little")
        return
    if weights == "pretrained":
        try:
            state = download()
        except Exception as error:  # network, certificate, proxy, damaged file: each library has its own errors
            got = f"no pretrained weights ({type(error).__name__}: {one_line(error)})"
            raise InputError(got, source, "put the file there by hand, or add extractor.weights=FILE") from None
    else:
        state = _read_state(existing_file(weights, f"a file of weights ({source})"))
    try:
        network.load_state_dict(select(state))
    except (RuntimeError, AttributeError, KeyError) as error:
        got = f"weights {weights} that do not fit ({one_line(error)})"
        raise InputError(got, f"a state dict of {type(network).__name__}", "check extractor.weights") from None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch draws from `seed` inside the block; its global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _read_state(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        got = f"{path}, unreadable ({one_line(error)})"
        raise InputError(got, "a state dict without pickled objects", "save it again") from None
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} with something else than tensors", "a state dict", "save network.state_dict()")
    return state

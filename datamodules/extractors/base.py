# SPDX-License-Identifier: MIT
"""Extractor: a frozen network from images to embeddings that states what it expects of them.

Axes: B batch, C = 3 channels, H = W = image_size, D embedding dimension.
"""

import hashlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from datamodules.alignment import Aligner, Resize
from datamodules.errors import InputError
from datamodules.files import sha256

logger = logging.getLogger(__name__)


class Extractor(nn.Module, ABC):
    """Base of all extractors. A subclass states the five facts below, none of which has a default.

    Args:
        name: for humans, part of the fingerprint.
        embedding_dim: D.
        image_size: side of the square input in pixels.
        channel_order: "RGB" or "BGR", what the network was trained with.
        value_range: the numbers that pixel values 0 and 255 become, such as (0.0, 1.0).
    """

    def __init__(
        self,
        *,
        name: str,
        embedding_dim: int,
        image_size: int,
        channel_order: str,
        value_range: tuple[float, float],
    ):
        super().__init__()
        if channel_order not in ("RGB", "BGR"):
            raise InputError(f"channel_order = {channel_order!r}", "RGB or BGR", "see how the network was trained")
        low, high = (float(value) for value in value_range)
        if not low < high:
            raise InputError(f"value_range = {low:g} to {high:g}", "low < high", "see how the network was trained")
        self.name = name
        self.embedding_dim = int(embedding_dim)
        self.image_size = int(image_size)
        self.channel_order = channel_order
        self.value_range = (low, high)
        self._fingerprint = ""

    @abstractmethod
    def embed(self, x_BCHW: Tensor) -> Tensor:
        """The network itself.

        Args:
            x_BCHW: (B, 3, image_size, image_size) float32 in `value_range`, channels in `channel_order`.

        Returns:
            (B, D) floats, not necessarily normalised; row i depends on image i only.
        """

    @abstractmethod
    def weights_digest(self) -> str:
        """A hash of the weights, in hexadecimal."""

    def default_aligner(self) -> Aligner:
        """How the network expects a picture to be cropped: as a whole, unless a subclass knows better."""
        return Resize(self.image_size)

    def train(self, mode: bool = True) -> "Extractor":
        """Stays in evaluation mode, whatever is asked: the network is frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Embeds prepared input, in evaluation mode and without gradient.

        Args:
            x_BCHW: (B, 3, image_size, image_size) float32 in `value_range`, channels in `channel_order`.

        Returns:
            (B, D) floats, not necessarily normalised.
        """
        expected = (3, self.image_size, self.image_size)
        if x_BCHW.ndim != 4 or tuple(x_BCHW.shape[1:]) != expected:
            raise ValueError(f"images of shape {tuple(x_BCHW.shape)}, {self.name} takes {('B', *expected)}")
        self.eval()
        return self.embed(x_BCHW)

    def to_input(self, images_BHWC: Tensor) -> Tensor:
        """Brings 8-bit images into the order and range that the network expects.

        Args:
            images_BHWC: (B, image_size, image_size, 3) uint8 RGB.

        Returns:
            (B, 3, image_size, image_size) float32 on the same device.
        """
        x_BCHW = images_BHWC.permute(0, 3, 1, 2)
        x_BCHW = (x_BCHW.flip(1) if self.channel_order == "BGR" else x_BCHW).contiguous().float()
        low, high = self.value_range
        return x_BCHW * ((high - low) / 255) + low

    def embed_images(self, images_BHWC: Tensor) -> Tensor:
        """From 8-bit RGB images, cropped by an aligner, to embeddings.

        Args:
            images_BHWC: (B, image_size, image_size, 3) uint8 RGB.

        Returns:
            (B, D) floats, not necessarily normalised.
        """
        return self(self.to_input(images_BHWC))

    def fingerprint(self) -> str:
        """Name and hash of the weights and of what is done to the input: the key of everything cached."""
        if not self._fingerprint:
            stated = f"{self.embedding_dim} {self.image_size} {self.channel_order} {self.value_range}"
            digest = hashlib.sha256(f"{self.weights_digest()} {stated}".encode()).hexdigest()[:16]
            self._fingerprint = f"{self.name}-{digest}"
        return self._fingerprint


def state_digest(network: nn.Module) -> str:
    """SHA-256 over names, shapes, types and values of all weights and buffers.

    Args:
        network: whose state dict is hashed.
    """
    digest = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_digest(path: Path | str, what: str) -> str:
    """SHA-256 of a weights file.

    Args:
        path: the file.
        what: it is, for the error.

    Raises:
        InputError: no such file.
    """
    return sha256(existing_file(path, what))


def existing_file(path: Path | str | None, what: str) -> Path:
    """Makes sure that a weights file is there.

    Args:
        path: the file, or None or "" where the user named none.
        what: what it should be, such as "an ONNX file of a face network".

    Raises:
        InputError: no file named, or no such file.
    """
    if not path:
        raise InputError("no extractor.weights", what, "add extractor.weights=FILE")
    if not (file := Path(os.path.expanduser(path))).is_file():
        raise InputError(f"no file {file}", what, "check extractor.weights")
    return file


def load_weights(
    network: nn.Module,
    weights: Path | str,
    download: Callable[[], Mapping[str, Tensor]],
    source: str,
    select: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
) -> None:
    """Fills a network by the argument `weights` that all PyTorch extractors share.

    Args:
        network: the network to fill, built under `seeded`.
        weights: "pretrained" for the published weights, "random" to leave the network untrained (tests, baselines),
            or a file with a state dict: .pt, .pth or .safetensors. Nothing is ever unpickled.
        download: gives the published weights; whatever it raises is reported as a failed download.
        source: where the published file comes from and where it would be found, for the error.
        select: picks and renames what belongs to `network`.

    Raises:
        InputError: the download failed, or the file is missing, damaged or of another network.
    """
    if weights == "random":
        logger.warning("random weights, as asked: the embeddings say little")
        return
    if weights == "pretrained":
        try:
            state = download()
        except Exception as error:  # no network, no certificate, proxy, damaged file: each library has its own
            detail = " ".join(str(error).split())[:160]
            raise InputError(
                f"no pretrained weights ({type(error).__name__}: {detail})",
                source,
                "put the file there by hand, or add extractor.weights=FILE",
            ) from None
    else:
        state = _read_state(existing_file(weights, f"a file of weights ({source})"))
    try:
        network.load_state_dict(select(state))
    except (RuntimeError, AttributeError, KeyError) as error:
        detail = " ".join(str(error).split())[:160]
        raise InputError(
            f"weights {weights} that do not fit ({detail})",
            f"a state dict of {type(network).__name__}",
            "check extractor.weights",
        ) from None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws inside the block depend on `seed` alone, and the global random state is as before afterwards.

    Args:
        seed: of the weights that are drawn inside.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _read_state(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        detail = " ".join(str(error).split())[:160]
        expected = "a state dict without pickled objects"
        raise InputError(f"{path}, unreadable ({detail})", expected, "save it again") from None
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} with something else than tensors", "a state dict", "save network.state_dict()")
    return state

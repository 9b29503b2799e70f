# SPDX-License-Identifier: MIT
"""Activations of chosen layers of an extractor. Axes: B images, C channels, H and W height and width of a map."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from torch import Tensor, nn

from datamodules.errors import InputError
from datamodules.extractors.base import Extractor


def convolutions(extractor: nn.Module, count: int = 3) -> list[str]:
    """Names of `count` convolutional layers, or of all, spread evenly from the first to the last."""
    names = [name for name, layer in extractor.named_modules() if isinstance(layer, nn.Conv2d)]
    places = np.unique(np.linspace(0, len(names) - 1, num=min(count, len(names))).round().astype(int))
    return [names[place] for place in places]


def chosen_layers(extractor: Extractor, layers: Sequence[str] | None) -> list[str]:
    """The layers whose maps are drawn: those named, or three convolutions for None; refuses an unknown name."""
    if layers is None:
        return convolutions(extractor)
    known = dict(extractor.named_modules())
    if unknown := [layer for layer in layers if layer not in known]:
        like = ", ".join(convolutions(extractor, 8)) or "none"
        raise InputError(f"layer {unknown[0]!r}", f"a layer of {extractor.name}, such as {like}", "set layers")
    return list(layers)


def feature_maps(extractor: Extractor, images_BHWC: Tensor, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """The outputs of layers, (B, C, H, W) float32, for uint8 RGB images; refuses a layer whose output is not a map."""
    found: dict[str, Tensor] = {}
    hooks = [extractor.get_submodule(layer).register_forward_hook(partial(_keep, found, layer)) for layer in layers]
    try:
        extractor.embed_images(images_BHWC)
    finally:
        for hook in hooks:
            hook.remove()
    for layer in layers:
        if layer not in found:
            raise InputError(f"layer {layer!r}, whose output is no map", "a convolutional layer", "set layers")
    return {layer: found[layer].float().cpu().numpy() for layer in layers}


def _keep(found: dict[str, Tensor], layer: str, _module: nn.Module, _input: tuple, output: object) -> None:
    if isinstance(output, Tensor) and output.ndim == 4:
        found[layer] = output.detach()

# SPDX-License-Identifier: MIT
"""Activations of chosen layers of an extractor.

Axes: B images, C channels, H and W height and width of a map.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.errors import InputError
from datamodules.extractors.base import Extractor


def convolutions(extractor: nn.Module, count: int = 3) -> list[str]:
    """Names of convolutional layers, spread evenly from the first to the last.

    Args:
        extractor: any network.
        count: how many; fewer where the network has fewer.
    """
    names = [name for name, layer in extractor.named_modules() if isinstance(layer, nn.Conv2d)]
    places = np.unique(np.linspace(0, len(names) - 1, num=min(count, len(names))).round().astype(int))
    return [names[place] for place in places]


def feature_maps(extractor: Extractor, images_BHWC: Tensor, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """What chosen layers put out for some images.

    Args:
        extractor: the network.
        images_BHWC: (B, image_size, image_size, 3) uint8 RGB.
        layers: names as in `named_modules()`.

    Returns:
        From the name of a layer to (B, C, H, W) float32.

    Raises:
        InputError: no such layer, or one whose output is not a map.
    """
    modules = dict(extractor.named_modules())
    unknown = [layer for layer in layers if layer not in modules]
    if unknown:
        known = ", ".join(convolutions(extractor, 8))
        raise InputError(f"layer {unknown[0]!r}", f"a layer of {extractor.name}, such as {known}", "set layers")
    found: dict[str, Tensor] = {}
    hooks = [
        modules[layer].register_forward_hook(lambda _module, _input, output, layer=layer: found.update({layer: output}))
        for layer in layers
    ]
    try:
        with torch.no_grad():
            extractor.embed_images(images_BHWC)
    finally:
        for hook in hooks:
            hook.remove()
    for layer in layers:
        if not isinstance(found.get(layer), Tensor) or found[layer].ndim != 4:
            raise InputError(f"layer {layer!r}, whose output is no map", "a convolutional layer", "set layers")
    return {layer: found[layer].float().cpu().numpy() for layer in layers}

# SPDX-License-Identifier: MIT
"""Figures of representative images of each loss, and of feature maps of chosen layers."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from datamodules.embedding_set import EmbeddingSet
from experiments.image_clustering.fits import Fit
from experiments.reporting.canvas import WIDTH_INCHES, short, style

SIDE = 3  # a layer is shown by its 3 x 3 strongest channels
CELL_INCHES = 1.5


def representatives_figure(fits: Mapping[str, Fit], pictures: EmbeddingSet, crops: Mapping[int, np.ndarray]) -> Figure:
    """One row per loss, one column per cluster: the member nearest the centre, with the size of its cluster.

    Args:
        crops: from a row of `pictures` to its (S, S, 3) uint8 image.
    """
    with style():
        figure, grid = _grid(len(fits), len(next(iter(fits.values())).representative_M), 0.25)
        for axes, (loss, fit) in zip(grid, fits.items(), strict=True):
            for axis, row, size in zip(axes, fit.representative_M.tolist(), fit.sizes(), strict=True):
                _picture(axis, crops[row], f"{short(pictures.identities[pictures.labels[row]], 18)}, of {size}")
            axes[0].set_ylabel(loss.replace("_", "\n"), fontsize=9)
    return figure


def feature_maps_figure(images: Sequence[np.ndarray], maps: Mapping[str, np.ndarray]) -> Figure:
    """One row per image: the image, then per layer its strongest channels.

    Args:
        images: B of (S, S, 3) uint8.
        maps: from the name of a layer to (B, C, H, W) activations.
    """
    with style():
        figure, grid = _grid(len(images), 1 + len(maps), 0.1)
        for place, axes in enumerate(grid):
            _picture(axes[0], images[place], "")
            for axis, (layer, maps_BCHW) in zip(axes[1:], maps.items(), strict=True):
                size = " x ".join(map(str, maps_BCHW.shape[1:]))
                title = "" if place else f"{short(layer.removeprefix('network.'), 22)}\n{size}"
                _picture(axis, mosaic(maps_BCHW[place]), title, cmap="viridis")
    return figure


def mosaic(maps_CHW: np.ndarray) -> np.ndarray:
    """The channels, (C, H, W), of greatest mean activation in a square, each stretched to [0, 1]; gaps are NaN."""
    _, h, w = maps_CHW.shape
    gap = max(1, h // 28)
    canvas = np.full((SIDE * (h + gap) - gap, SIDE * (w + gap) - gap), np.nan)
    strongest = np.argsort(-maps_CHW.mean(axis=(1, 2)), kind="stable")[: SIDE * SIDE]
    for place, channel in enumerate(maps_CHW[strongest]):
        top, left = place // SIDE * (h + gap), place % SIDE * (w + gap)
        low, high = channel.min(), channel.max()
        canvas[top : top + h, left : left + w] = (channel - low) / ((high - low) or 1.0)
    return canvas


def _grid(rows: int, columns: int, title_inches: float):
    width = max(WIDTH_INCHES, CELL_INCHES * columns)
    height = rows * (min(width / columns, 2 * CELL_INCHES) + title_inches) + 0.3
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _picture(axis, image: np.ndarray, title: str, **options) -> None:
    axis.imshow(image, **options)
    axis.set_title(title, fontsize=8.5, fontweight="normal", loc="center")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    axis.spines[:].set_visible(False)

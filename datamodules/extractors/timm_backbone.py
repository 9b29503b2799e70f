# SPDX-License-Identifier: MIT
"""Any image backbone of timm: ImageNet's networks, DINOv2, CLIP, SigLIP, ..."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.errors import InputError, needed_package, one_line
from datamodules.extractors.base import Extractor, load_weights, seeded


class TimmExtractor(Extractor):
    """Pooled features of a timm model; size, mean and deviation are timm's.

    Args:
        model: timm's name, such as "resnet50.a1_in1k"; `timm.list_models(pretrained=True)` lists them.
        weights: "pretrained" (timm's own download), "random", or a file with the model's state dict.
        image_size: side of the input in pixels; None takes that of the model's training. Position embeddings are
            interpolated.
        pooling: "avg" for the average over the picture, "own" for the model's: the class token, attention.
        head: whether the last layer is kept, which for CLIP is the projection that it was trained with.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: str = "resnet50.a1_in1k", weights: str | Path = "pretrained", image_size: int | None = None,
        seed: int = 0, pooling: str = "avg", head: bool = False,
    ):  # fmt: skip
        if pooling not in ("avg", "own"):
            raise InputError(f"extractor.pooling = {pooling!r}", "avg or own", "correct extractor.pooling")
        with needed_package("timm", "timm for this extractor", "pip install 'clusterface[timm]'"):
            import timm
        if not timm.is_model(model.split(".")[0]):
            near = ", ".join(difflib.get_close_matches(model.split(".")[0], timm.list_models(), n=5)) or "none"
            raise InputError(f"extractor.model = {model!r}", "a model of timm", f"similar names: {near}")
        options: dict[str, Any] = {} if head else {"num_classes": 0}
        options |= {"global_pool": "avg"} if pooling == "avg" else {}
        with seeded(seed):
            try:
                network: Any = timm.create_model(model, pretrained=False, **options)
            except (RuntimeError, TypeError, ValueError, AssertionError) as error:
                got = f"{model}, which cannot be pooled ({one_line(error)})"
                raise InputError(
                    got, "a backbone with average pooling", "choose another, or extractor.pooling=own"
                ) from None
        data = timm.data.resolve_model_data_config(network)
        name = network.pretrained_cfg.get("hf_hub_id") or network.pretrained_cfg.get("url") or model
        super().__init__(
            name=f"timm-{model}" + ("-own" if pooling == "own" else "") + ("-head" if head else ""),
            embedding_dim=network.num_classes if head else network.head_hidden_size,
            image_size=image_size or data["input_size"][-1], channel_order="RGB", value_range=(0.0, 1.0),
        )  # fmt: skip
        self.fraction = float(data["crop_pct"])
        self.network = network
        load_weights(
            network,
            weights,
            lambda: timm.create_model(model, pretrained=True, **options).state_dict(),
            f"the download of {name} into timm's cache",
            (lambda state: state) if head else self._without_classifier,
        )
        if image_size and hasattr(network, "set_input_size"):
            network.set_input_size(img_size=(image_size, image_size))
        self.register_buffer("mean", torch.tensor(data["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)
        if weights != "random":
            self.check_tells_apart(f"{model} with weights {weights}", "check extractor.model and extractor.weights")

    def embed(self, x_BCHW: Tensor) -> Tensor:
        return self.network((x_BCHW - self.mean) / self.std)

    def _without_classifier(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        classifier = self.network.pretrained_cfg.get("classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        return {key: value for key, value in state.items() if not key.startswith(tuple(f"{head}." for head in heads))}

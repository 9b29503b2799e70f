# SPDX-License-Identifier: MIT
"""Any face network in the ONNX format, through onnxruntime."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.alignment import ARCFACE_SIZE, Aligner, MTCNNAligner
from datamodules.errors import InputError, needed_package, one_line
from datamodules.extractors.base import Extractor, existing_file
from datamodules.files import sha256


class OnnxExtractor(Extractor):
    """A network with one image input and an embedding output, such as ArcFace R100, the buffalo models, or SFace.

    The file does not state mean, deviation and channel order, its origin does: RGB, 127.5, 127.5 for InsightFace's
    files; RGB, 0, 1 for those of the ONNX model zoo that come from MXNet and scale inside.

    Args:
        image_size: side of the input in pixels.
        channel_order: "RGB" or "BGR".
        mean, std: the input is (pixel value, 0 to 255, - mean) / std.
        embedding_dim: D; None takes that of the file.
        output: name of the output; None takes the only one.
    """

    def __init__(
        self, weights: str | Path | None, image_size: int = ARCFACE_SIZE, channel_order: str = "RGB",
        mean: float = 127.5, std: float = 127.5, embedding_dim: int | None = None, output: str | None = None,
    ):  # fmt: skip
        self.weights = existing_file(weights, "an ONNX file of a face network")
        if not std > 0:
            raise InputError(f"extractor.std = {std:g}", "above 0", "1 for a network that scales inside")
        session = _session(self.weights)
        layout, batch = _check_input(session, self.weights, image_size)
        output = _choose_output(session, self.weights, output)
        shape = (3, image_size, image_size) if layout == "NCHW" else (image_size, image_size, 3)
        grey = np.zeros((batch or 1, *shape), np.float32)
        found = int(np.prod(session.run([output], {session.get_inputs()[0].name: grey})[0].shape[1:]))
        if embedding_dim is not None and embedding_dim != found:
            got = f"{self.weights} with {found}-d output {output}"
            raise InputError(got, f"{embedding_dim}-d", "mend embedding_dim")
        super().__init__(
            name=f"onnx-{self.weights.stem}", embedding_dim=found, image_size=image_size, channel_order=channel_order,
            value_range=((0 - mean) / std, (255 - mean) / std),
        )  # fmt: skip
        self._session, self._layout, self._batch, self._output = session, layout, batch, output
        # With the wrong range a network sees nearly the same grey in all pictures.
        self.check_tells_apart(str(self.weights), "mend extractor.mean and extractor.std (127.5 and 127.5, or 0 and 1)")

    def embed(self, x_BCHW: Tensor) -> Tensor:
        ordered = x_BCHW if self._layout == "NCHW" else x_BCHW.permute(0, 2, 3, 1)
        x = np.ascontiguousarray(ordered.cpu().numpy(), np.float32)
        step = self._batch or max(len(x), 1)
        name = self._session.get_inputs()[0].name
        found = []
        for start in range(0, len(x), step):
            part = x[start : start + step]
            padding = [(0, (self._batch or len(part)) - len(part))] + [(0, 0)] * 3
            z = self._session.run([self._output], {name: np.pad(part, padding)})[0]
            found.append(z.reshape(len(z), -1)[: len(part)].astype(np.float32))
        embeddings = np.concatenate(found) if found else np.zeros((0, self.embedding_dim), np.float32)
        return torch.from_numpy(embeddings).to(x_BCHW.device)

    def default_aligner(self) -> Aligner:
        return MTCNNAligner(self.image_size)

    def weights_digest(self) -> str:
        return f"{sha256(self.weights)} {self._output}"


def _session(path: Path):
    with needed_package("onnxruntime", "it for this extractor", "pip install 'clusterface[onnx]'"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    device = int(os.environ.get("LOCAL_RANK", "0"))
    usable = onnxruntime.get_available_providers()
    providers = [("CUDAExecutionProvider", {"device_id": device})] if "CUDAExecutionProvider" in usable else []
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base
        got = f"{path}, unreadable ({one_line(error)})"
        raise InputError(got, "an ONNX file of a face network", "fetch it again") from None


def _check_input(session, path: Path, image_size: int) -> tuple[str, int | None]:
    inputs = session.get_inputs()
    stated = f"{path} with " + ", ".join(f"{entry.name} {entry.shape} {entry.type}" for entry in inputs)
    expected = f"one float input of (batch, 3, {image_size}, {image_size})"
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
        raise InputError(stated, expected, "choose a network from images to embeddings")
    batch, *sides = (size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape)
    for layout, (channels, height, width) in (("NCHW", sides), ("NHWC", [sides[2], *sides[:2]])):
        if channels == 3 and {height, width} <= {image_size, None}:
            return layout, batch
    if sides[0] is None and set(sides[1:]) <= {image_size, None}:
        return "NCHW", batch
    raise InputError(stated, expected, "set extractor.image_size to what the file states")


def _choose_output(session, path: Path, name: str | None) -> str:
    outputs = [entry.name for entry in session.get_outputs()]
    if name is None and len(outputs) == 1:
        return outputs[0]
    if name is None or name not in outputs:
        raise InputError(f"{path}: output {name!r}", f"one of {', '.join(outputs)}", "set extractor.output")
    return name

# SPDX-License-Identifier: MIT
"""Small networks in the ONNX format for the tests."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_face_network(
    path: Path,
    seed: int = 0,
    size: int | None = 112,
    batch: int | None = None,
    dim: int = 16,
    layout: str = "NCHW",
    scales_inside: bool = False,
    two_outputs: bool = False,
    input_type: int = TensorProto.FLOAT,
) -> Path:
    """Writes convolution (8 x 8, stride 8), tanh, average over the picture, and a linear layer.

    Args:
        path: the file.
        seed: of the weights.
        size: side of the input; None leaves it open.
        batch: size of the batch; None leaves it open.
        dim: of the output.
        layout: "NCHW" or "NHWC".
        scales_inside: whether (x - 127.5) / 128 is part of the network.
        two_outputs: whether the convolution's output is another output.
        input_type: element type of the input.
    """
    generator = np.random.default_rng(seed)
    weights = {
        "kernel": generator.normal(size=(8, 3, 8, 8)).astype(np.float32) / 14,
        "linear": generator.normal(size=(8, dim)).astype(np.float32),
        "mean": np.float32(127.5),
        "scale": np.float32(128),
    }
    shape = [batch or "batch", 3, size or "height", size or "width"]
    x, nodes = "x", []
    if layout == "NHWC":
        shape = [shape[0], shape[2], shape[3], 3]
        nodes.append(helper.make_node("Transpose", [x], ["chw"], perm=[0, 3, 1, 2]))
        x = "chw"
    if scales_inside:
        nodes += [
            helper.make_node("Sub", [x, "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "scale"], ["scaled"]),
        ]
        x = "scaled"
    nodes += [
        helper.make_node("Conv", [x, "kernel"], ["map"], strides=[8, 8]),
        helper.make_node("Tanh", ["map"], ["bent"]),
        helper.make_node("GlobalAveragePool", ["bent"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "linear"], ["embedding"]),
    ]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch or "batch", dim])]
    if two_outputs:
        outputs.append(helper.make_tensor_value_info("map", TensorProto.FLOAT, None))
    graph = helper.make_graph(
        nodes,
        "face",
        [helper.make_tensor_value_info("x", input_type, shape)],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def reference(path: Path, x_BCHW: np.ndarray) -> np.ndarray:
    """The same network by numpy alone, (B, dim), without scaling inside."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    batch, _, height, width = x_BCHW.shape
    blocks = x_BCHW.reshape(batch, 3, height // 8, 8, width // 8, 8)
    maps = np.einsum("bchiwj,kcij->bkhw", blocks, tensors["kernel"])
    return np.tanh(maps).mean(axis=(2, 3)) @ tensors["linear"]

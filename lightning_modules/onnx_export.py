# SPDX-License-Identifier: MIT
"""An Identifier as one ONNX file that names embeddings without this project."""

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from datamodules.errors import InputError
from lightning_modules.identifier import Identifier
from lightning_modules.onnx_graph import OPSET, OnnxScores, as_array
from lightning_modules.scores import cluster_centres

OUTPUTS = ("index", "score", "cluster", "best", "runner_up", "runner_up_cosine")
FLOATS = ("score", "runner_up_cosine")
ONE_FILE_BYTES = 1900 << 20  # protobuf stops at 2 GiB; beyond this the weights go into a file of their own
FORMAT = "clusterface-onnx-1"


def export_onnx(identifier: Identifier, path: Path | str, one_file_bytes: int = ONE_FILE_BYTES) -> None:
    """Writes an identifier as ONNX, opset 17.

    Input `embeddings` (batch, D) float32 of any length. Outputs, each (batch,): `index` (int64, -1 under the
    threshold), `score` (float32), `cluster` (int64), `best` (int64, the answer before the threshold), `runner_up`
    (int64, the other person with the nearest class mean, -1 if there is nobody else) and `runner_up_cosine`. A graph
    cannot raise errors: a probe with NaN or infinity, or of zeros, gets -1 and NaN in all outputs. The names by index,
    the threshold and the extractor's fingerprint are in the model's metadata as JSON.

    Args:
        path: a file in a folder that exists; it is replaced.
        one_file_bytes: above so many bytes of weights they go into `<path>.data` beside it.

    Raises:
        InputError: a router or decision without export, or no package onnx.
    """
    with torch.inference_mode():
        centres_MD = as_array(cluster_centres(identifier.class_means_KD, identifier.partition))
    means_KD, cluster_of_K = as_array(identifier.class_means_KD), identifier.partition.cluster_of
    scores, cluster = OnnxScores(means_KD, centres_MD, cluster_of_K, identifier.heads), None
    if identifier.decision.needs_route:
        routed = identifier.router is not None and identifier.partition.n_clusters > 1
        cluster = identifier.router.route_onnx(scores) if routed else _zeros(scores)
    best, score, cluster = identifier.decision.decide_onnx(scores, cluster)
    index = best
    if identifier.threshold is not None:
        under = scores.add("Less", score, scores.constant(np.float32(identifier.threshold)))
        index = scores.add("Where", under, scores.constant(np.int64(-1)), best)
    answers = index, score, cluster, best, *_runner_up(scores, best, len(identifier.identities))
    for name, answer in zip(OUTPUTS, answers, strict=True):
        nobody = scores.constant(np.float32(np.nan) if name in FLOATS else np.int64(-1))
        scores.nodes.append(scores.onnx.helper.make_node("Where", [scores.valid_B, answer, nobody], [name]))
    _write(scores, identifier, Path(path), one_file_bytes)


def largest_difference(identifier: Identifier, path: Path | str, probes_BD: np.ndarray) -> tuple[int, float]:
    """Compares a file, run by onnxruntime, with the identifier that it was made from on (B, D) float32 probes.

    Returns:
        How many probes get another answer or cluster, and the largest difference of a score.

    Raises:
        InputError: no package onnxruntime.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError("no package onnxruntime", "it to check the file", "pip install 'clusterface[onnx]'") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"embeddings": probes_BD.astype(np.float32)}), strict=True))
    accepted, best = identifier.identify(probes_BD), replace(identifier, threshold=None).identify(probes_BD)
    same = (found["index"] == accepted.index) & (found["best"] == best.index) & (found["cluster"] == best.cluster)
    return int((~same).sum()), float(np.abs(found["score"] - best.score).max(initial=0))


def likely_probes(identifier: Identifier, number: int = 256, seed: int = 0) -> np.ndarray:
    """(B, D) float32 probes near class means drawn at random: a cosine of about 0.7 with them."""
    random = np.random.default_rng(seed)
    means_BD = as_array(identifier.class_means_KD)[random.integers(len(identifier.identities), size=number)]
    return means_BD + random.standard_normal(means_BD.shape, np.float32) / np.sqrt(identifier.dim, dtype=np.float32)


def _zeros(scores: OnnxScores) -> str:
    zero = scores.onnx.numpy_helper.from_array(np.zeros(1, np.int64))
    return scores.add("ConstantOfShape", scores.add("Shape", "embeddings", start=0, end=1), value=zero)  # (B,) int64


def _runner_up(scores: OnnxScores, best: str, k: int) -> tuple[str, str]:
    if k < 2:
        zeros = _zeros(scores)
        nobody = scores.add("Sub", zeros, scores.constant(np.int64(1)))
        as_float = scores.add("Cast", zeros, to=int(scores.onnx.TensorProto.FLOAT))
        return nobody, scores.add("Add", as_float, scores.constant(np.float32(np.nan)))
    cosine_B2, identity_B2 = scores.nearest_classes(2)
    first, second = (scores.column(identity_B2, place) for place in (0, 1))
    same = scores.add("Equal", first, best)
    cosines = [scores.column(cosine_B2, place) for place in (0, 1)]
    return scores.add("Where", same, second, first), scores.add("Where", same, cosines[1], cosines[0])


def _write(scores: OnnxScores, identifier: Identifier, path: Path, one_file_bytes: int) -> None:
    onnx = scores.onnx
    value, floats, integers = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    inputs = [value("embeddings", floats, ["batch", identifier.dim])]
    outputs = [value(name, floats if name in FLOATS else integers, ["batch"]) for name in OUTPUTS]
    graph = onnx.helper.make_graph(scores.nodes, "identifier", inputs, outputs, scores.constants)
    opset = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(graph, producer_name="clusterface", opset_imports=opset, ir_version=8)
    facts = {key: identifier.provenance.get(key) for key in ("scenario", "dataset", "extractor")}
    content = {"format": FORMAT, "identities": identifier.identities, "threshold": identifier.threshold, **facts}
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in content.items()})
    large = sum(len(constant.raw_data) for constant in scores.constants) > one_file_bytes
    # In a folder of its own: a file of weights is known to the model by its name.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        made, weights = Path(folder) / path.name, f"{path.name}.data"
        onnx.save_model(model, made, save_as_external_data=large, location=weights, size_threshold=1024)
        onnx.checker.check_model(str(made), full_check=True)
        for name in [weights, path.name] if large else [path.name]:
            os.replace(Path(folder) / name, path.parent / name)

# SPDX-License-Identifier: MIT
"""ONNX face networks: numbers against numpy, and files that do not fit what is said about them."""

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="package onnx writes the networks of these tests")
pytest.importorskip("onnxruntime")

from onnx import TensorProto

from datamodules.errors import InputError
from datamodules.extractors.onnx import OnnxExtractor
from tests.datamodules.extractors.onnx_models import reference, write_face_network


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (5, 112, 112, 3), np.uint8))


def test_embeddings_are_those_of_the_network(tmp_path, images):
    path = write_face_network(tmp_path / "face.onnx")
    x = (images.numpy().transpose(0, 3, 1, 2) - 127.5) / 128
    found = OnnxExtractor(path, std=128).embed_images(images)
    np.testing.assert_allclose(found, reference(path, x), rtol=1e-4, atol=1e-5)


def test_bgr_networks_get_blue_first(tmp_path, images):
    path = write_face_network(tmp_path / "face.onnx")
    x = (images.numpy()[..., ::-1].transpose(0, 3, 1, 2) - 127.5) / 127.5
    found = OnnxExtractor(path, channel_order="BGR").embed_images(images)
    np.testing.assert_allclose(found, reference(path, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "variant", [{"batch": 1}, {"batch": 4}, {"layout": "NHWC"}, {"size": None}, {"two_outputs": True}]
)
def test_variants_of_the_same_network_give_the_same(tmp_path, images, variant):
    plain = OnnxExtractor(write_face_network(tmp_path / "plain.onnx"))
    output = "embedding" if "two_outputs" in variant else None
    other = OnnxExtractor(write_face_network(tmp_path / "other.onnx", **variant), output=output)
    torch.testing.assert_close(other.embed_images(images), plain.embed_images(images), rtol=1e-4, atol=1e-5)


def test_a_network_that_scales_inside_wants_mean_0_and_std_1(tmp_path, images):
    inside = OnnxExtractor(write_face_network(tmp_path / "inside.onnx", scales_inside=True), mean=0, std=1)
    outside = OnnxExtractor(write_face_network(tmp_path / "outside.onnx"), mean=127.5, std=128)
    torch.testing.assert_close(inside.embed_images(images), outside.embed_images(images), rtol=1e-4, atol=1e-5)


def test_scaling_twice_is_noticed(tmp_path):
    path = write_face_network(tmp_path / "inside.onnx", scales_inside=True)
    with pytest.raises(InputError, match="same embedding.*extractor.mean"):
        OnnxExtractor(path, mean=127.5, std=128)


@pytest.mark.parametrize(
    ("network", "arguments", "expected"),
    [
        ({"size": 160}, {}, r"\[.*160, 160\].*image_size"),
        ({"size": 112}, {"image_size": 160}, r"\[.*112, 112\].*image_size"),
        ({"dim": 16}, {"embedding_dim": 512}, "16-d output.*512-d"),
        ({"two_outputs": True}, {}, "output None.*embedding, map"),
        ({"two_outputs": True}, {"output": "emb"}, "output 'emb'.*embedding, map"),
        ({"input_type": TensorProto.DOUBLE}, {}, "unreadable|double"),
        ({}, {"std": 0}, "extractor.std"),
        ({}, {"channel_order": "GBR"}, "RGB or BGR"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, network, arguments, expected):
    path = write_face_network(tmp_path / "face.onnx", **network)
    with pytest.raises(InputError, match=expected):
        OnnxExtractor(path, **arguments)


@pytest.mark.parametrize("content", [b"", b"not a network", None])
def test_files_that_are_no_networks_are_refused(tmp_path, content):
    path = tmp_path / "face.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="face.onnx"):
        OnnxExtractor(path)


@pytest.mark.parametrize("weights", [None, ""])
def test_no_file_named(weights):
    with pytest.raises(InputError, match="extractor.weights=FILE"):
        OnnxExtractor(weights)


def test_the_fingerprint_tells_normalisation_order_and_weights(tmp_path):
    one, two = (write_face_network(tmp_path / f"{seed}.onnx", seed=seed) for seed in (0, 1))
    made = [
        OnnxExtractor(one),
        OnnxExtractor(one, std=128),
        OnnxExtractor(one, channel_order="BGR"),
        OnnxExtractor(two),
    ]
    assert len({extractor.fingerprint().split("-")[-1] for extractor in made}) == 4
    (tmp_path / "sub").mkdir()
    moved = (tmp_path / "sub" / "0.onnx").write_bytes(one.read_bytes()) and tmp_path / "sub" / "0.onnx"
    assert OnnxExtractor(moved).fingerprint() == made[0].fingerprint()

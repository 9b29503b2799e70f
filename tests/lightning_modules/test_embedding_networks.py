# SPDX-License-Identifier: MIT
import pytest
import torch

from datamodules.errors import InputError
from lightning_modules.embedding_networks import InceptionResnet, Projection, TimmNetwork, Unchanged


@pytest.mark.parametrize("network", [Projection(4), Projection(4, hidden=6), Unchanged()])
def test_embeddings_become_rows_of_unit_length_whatever_theirs_was(network):
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    z = network(x)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))
    for factor in (9, 1e20, 1e-25):
        torch.testing.assert_close(network((x.double() * factor).float()), z)
    assert z.shape == (5, 7 if isinstance(network, Unchanged) else 4)


def test_inception_resnet_sees_pixels_as_facenet_does():
    network = InceptionResnet().eval()
    pixels = torch.randint(0, 256, (2, 160, 160, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = network(pixels)
        expected = network.network((pixels.permute(0, 3, 1, 2).float() - 127.5) / 128)
    torch.testing.assert_close(z, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2))


def test_timm_network_has_the_dimension_asked_for():
    pytest.importorskip("timm")
    network = TimmNetwork("resnet10t", dim=6, image_size=32).eval()
    with torch.no_grad():
        z = network(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    assert z.shape == (2, 6) and network.image_size == 32


def test_what_is_not_there_is_named():
    with pytest.raises(InputError, match="vggface2"):
        InceptionResnet(weights="lfw")
    pytest.importorskip("timm")
    with pytest.raises(InputError, match="timm.list_models"):
        TimmNetwork("resnet_nought")

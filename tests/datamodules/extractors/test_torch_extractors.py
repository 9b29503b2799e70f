# SPDX-License-Identifier: MIT
"""VGG16, timm and FaceNet: against the libraries' own networks, and every way to give them weights."""

import urllib.error
from pathlib import Path

import pytest
import timm
import torch
from facenet_pytorch import InceptionResnetV1, fixed_image_standardization
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn
from torchvision.models import vgg16

from datamodules.alignment import MTCNNAligner, Resize
from datamodules.errors import InputError
from datamodules.extractors.base import Extractor, load_weights
from datamodules.extractors.facenet import FaceNetExtractor
from datamodules.extractors.timm_backbone import TimmExtractor
from datamodules.extractors.vgg16 import VGG16Extractor

CONFIGS = Path(__file__).resolve().parents[3] / "experiments/configs/extractor"


def images(size: int, count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_vgg16_is_torchvisions_with_its_own_preprocessing():
    extractor = VGG16Extractor(weights="random", image_size=64)
    with torch.device("meta"):
        published = vgg16(weights=None, init_weights=False).features.eval()
    published = published.to_empty(device="cpu")
    published.load_state_dict(extractor.features.state_dict())
    x = images(64).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = nn.AdaptiveAvgPool2d(1)(published(x)).flatten(1)
    torch.testing.assert_close(extractor.embed_images(images(64)), expected, rtol=1e-4, atol=1e-5)


def test_vgg16_takes_the_file_of_the_whole_network_or_of_its_convolutions(tmp_path):
    source = VGG16Extractor(weights="random", seed=5)
    state = source.features.state_dict()
    torch.save(
        {f"features.{key}": value for key, value in state.items()} | {"classifier.0.bias": torch.zeros(3)},
        tmp_path / "whole.pth",
    )
    save_file(state, tmp_path / "features.safetensors")
    for file in ("whole.pth", "features.safetensors"):
        assert VGG16Extractor(weights=tmp_path / file).fingerprint() == source.fingerprint()


def test_timm_states_the_facts_of_the_model():
    extractor = TimmExtractor("resnet18", weights="random")
    assert (extractor.embedding_dim, extractor.image_size, extractor.fraction) == (512, 224, 0.95)
    assert TimmExtractor("resnet18", weights="random", image_size=96).image_size == 96


def test_timm_takes_a_file_with_the_classifier_and_gives_timms_features(tmp_path):
    torch.manual_seed(0)
    published = timm.create_model("resnet18", pretrained=False).eval()
    torch.save(published.state_dict(), tmp_path / "r18.pth")
    extractor = TimmExtractor("resnet18", weights=tmp_path / "r18.pth", image_size=96)
    data = timm.data.resolve_model_data_config(published)
    x = images(96).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor(data["mean"]).view(3, 1, 1)) / torch.tensor(data["std"]).view(3, 1, 1)
    expected = published.forward_features(x).mean(dim=(2, 3))
    torch.testing.assert_close(extractor.embed_images(images(96)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name, dim, pooled", [("dinov2", 384, "token"), ("clip", 512, "token"), ("siglip", 768, "map")]
)
def test_dinov2_clip_and_siglip_are_timms_own(tmp_path, name, dim, pooled):
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    torch.manual_seed(0)
    published = timm.create_model(config.model, pretrained=False).eval()
    assert published.global_pool == pooled
    with torch.no_grad():
        for key, value in published.named_parameters():
            if key.endswith("gamma"):
                value.fill_(1.0)  # at the first 1e-5 no picture would reach the class token
            elif name == "clip" and key == "head.weight":
                value.normal_(std=0.02)
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    config.weights = str(tmp_path / "model.safetensors")
    extractor = instantiate(config)
    size = extractor.image_size
    assert size == 224 and extractor.embedding_dim == dim
    # timm's own way of loading: it interpolates position embeddings for another size.
    state = {"state_dict": dict(published.state_dict())}
    expected = timm.create_model(config.model, pretrained=True, pretrained_cfg_overlay=state, img_size=size).eval()
    data = timm.data.resolve_model_data_config(published)
    x = images(size).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor(data["mean"]).view(3, 1, 1)) / torch.tensor(data["std"]).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(extractor.embed_images(images(size)), expected(x), rtol=1e-3, atol=1e-4)


def test_pooling_and_head_change_the_fingerprint():
    made = [dict(), dict(pooling="own"), dict(pooling="own", head=True)]
    prints = {TimmExtractor("test_vit", weights="random", **options).fingerprint() for options in made}
    assert len(prints) == 3
    with pytest.raises(InputError, match="avg or own"):
        TimmExtractor("test_vit", weights="random", pooling="max")


def test_timm_weights_that_see_no_difference_are_refused(tmp_path):
    network = timm.create_model("test_vit", pretrained=False)
    with torch.no_grad():
        network.patch_embed.proj.weight.zero_()
    save_file(network.state_dict(), tmp_path / "blind.safetensors")
    with pytest.raises(InputError, match="two unlike pictures the same embedding"):
        TimmExtractor("test_vit", weights=tmp_path / "blind.safetensors", pooling="own")


def test_timm_names_are_checked_before_anything_is_built():
    with pytest.raises(InputError, match="similar names: .*resnet50"):
        TimmExtractor("resnett50", weights="random")


def test_facenet_is_facenet_pytorchs_with_its_own_standardisation():
    extractor = FaceNetExtractor(weights="random", image_size=96)
    published = InceptionResnetV1().eval()
    published.load_state_dict(extractor.network.state_dict())
    x = fixed_image_standardization(images(96).permute(0, 3, 1, 2).float())
    torch.testing.assert_close(extractor.to_input(images(96)), x, rtol=0, atol=1e-6)
    found = extractor.embed_images(images(96))
    torch.testing.assert_close(found, published(x), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def test_facenet_takes_a_published_file_with_its_classifier(tmp_path):
    source = FaceNetExtractor(weights="random", seed=3)
    torch.save(
        source.network.state_dict() | {"logits.weight": torch.zeros(8631, 2), "logits.bias": torch.zeros(8631)},
        tmp_path / "v.pt",
    )
    assert FaceNetExtractor(weights=tmp_path / "v.pt").fingerprint() == source.fingerprint()


def test_facenets_download_is_used_and_where_there_is_none_the_file_is_named(monkeypatch, tmp_path):
    source = FaceNetExtractor(weights="random", seed=4)
    file = tmp_path / "checkpoints" / "20180408-102900-casia-webface.pt"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(url, target):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("facenet_pytorch.models.inception_resnet_v1.download_url_to_file", no_network)
    with pytest.raises(InputError, match=f"no route to host.*{file.name}.*{file.parent}.*put the file there"):
        FaceNetExtractor(trained_on="casia-webface")
    torch.save(
        source.network.state_dict() | {"logits.weight": torch.zeros(10575, 512), "logits.bias": torch.zeros(10575)},
        file,
    )
    assert FaceNetExtractor(trained_on="casia-webface").weights_digest() == source.weights_digest()


def test_facenet_knows_two_data_sets():
    with pytest.raises(InputError, match="vggface2 or casia-webface"):
        FaceNetExtractor(trained_on="ms1m")


def test_networks_for_faces_look_for_faces_and_others_do_not():
    assert isinstance(FaceNetExtractor(weights="random").default_aligner(), MTCNNAligner)
    assert isinstance(VGG16Extractor(weights="random").default_aligner(), Resize)


def fill(weights, download=dict) -> nn.Linear:
    network = nn.Linear(2, 3)
    load_weights(network, weights, download, "linear.pt in the cache")
    return network


def test_a_failed_download_says_which_file_to_put_where():
    def download():
        raise OSError("connection\nrefused")

    with pytest.raises(InputError, match="connection refused.*linear.pt in the cache.*extractor.weights=FILE"):
        fill("pretrained", download)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(nn.Linear(2, 4).state_dict(), tmp_path / "other.pt")
    with pytest.raises(InputError, match="do not fit.*size mismatch"):
        fill(tmp_path / "other.pt")


def test_files_with_more_than_tensors_are_never_unpickled(tmp_path):
    torch.save(nn.Linear(2, 3), tmp_path / "pickled.pt")
    with pytest.raises(InputError, match="pickled.pt, unreadable"):
        fill(tmp_path / "pickled.pt")
    torch.save({"weight": "a word"}, tmp_path / "word.pt")
    with pytest.raises(InputError, match="something else than tensors"):
        fill(tmp_path / "word.pt")


@pytest.mark.parametrize("name", ["damaged.pt", "damaged.safetensors", "missing.pt"])
def test_damaged_and_missing_files_are_named(tmp_path, name):
    if "damaged" in name:
        (tmp_path / name).write_bytes(b"\x80\x02junk" * 20)
    with pytest.raises(InputError, match=name):
        fill(tmp_path / name)


def test_a_checkpoint_with_a_state_dict_inside_is_taken(tmp_path):
    network = nn.Linear(2, 3)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "checkpoint.pt")
    torch.testing.assert_close(fill(tmp_path / "checkpoint.pt").weight, network.weight)


@pytest.mark.parametrize("facts", [{"channel_order": "rgb"}, {"value_range": (1.0, 0.0)}])
def test_facts_must_make_sense(facts):
    class Nothing(Extractor):
        def embed(self, x_BCHW):
            return x_BCHW

        def weights_digest(self):
            return ""

    whole = dict(name="x", embedding_dim=1, image_size=1, channel_order="RGB", value_range=(0.0, 1.0))
    with pytest.raises(InputError, match=next(iter(facts))):
        Nothing(**whole | facts)
    with pytest.raises(TypeError, match="channel_order"):
        Nothing(**{key: value for key, value in whole.items() if key != "channel_order"})

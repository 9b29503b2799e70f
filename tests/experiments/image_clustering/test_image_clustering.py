# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import make_blobs

from datamodules.errors import InputError
from datamodules.extractors.random_projection import RandomProjectionExtractor
from datamodules.partitioners.generalised_kmeans import GeneralisedKMeans
from datamodules.sources.image_folder import ImageFolder
from experiments.image_clustering.clusters import agreement, in_common_order, purity, representatives
from experiments.image_clustering.feature_maps import chosen_layers, convolutions, feature_maps
from experiments.image_clustering.figures import feature_maps_figure, mosaic, representatives_figure
from experiments.image_clustering.fits import clusters_table, fit_losses, representatives_table, results, sentence
from experiments.image_clustering.pictures import Pictures, read_pictures


class SmallNet(RandomProjectionExtractor):
    """Two convolutions before the projection, for the maps."""

    def __init__(self):
        super().__init__(embedding_dim=4, image_size=8, channel_order="RGB", seed=0)
        self.first = torch.nn.Conv2d(3, 5, 3, padding=1)
        self.second = torch.nn.Sequential(torch.nn.Conv2d(5, 12, 3, stride=2), torch.nn.ReLU())
        self.pool = torch.nn.AdaptiveAvgPool2d(1)

    def embed(self, x_BCHW):
        return self.pool(self.second(self.first(x_BCHW))).flatten(1)


def pictures(n=30, classes=3):
    features_ND, labels_N = make_blobs(n, 6, centers=classes, cluster_std=0.3, random_state=0)
    crops_NSSC = np.zeros((n, 8, 8, 3), np.uint8)
    names = tuple(f"{label}/{row}.png" for row, label in enumerate(labels_N))
    return Pictures(crops_NSSC, features_ND.astype(np.float32), names, labels_N, tuple("abcdefgh"[:classes]), ())


def test_clusters_take_the_numbers_of_those_they_share_most_with():
    reference = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    renamed = np.array([2, 2, 1, 0, 0, 1, 1, 1])
    assert in_common_order(renamed, reference).tolist() == [2, 0, 1]


def test_representative_is_the_member_with_the_least_loss():
    points = np.array([[0.0], [1.0], [2.2], [50.0], [52.0], [57.0]])
    fitted = GeneralisedKMeans(2, loss="absolute", init=[[0.0], [50.0]]).fit(points)
    assert representatives(fitted, points).tolist() == [1, 4]


def test_purity_by_hand():
    assert purity(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0])) == pytest.approx(3 / 5)


def test_agreement_is_one_for_renamed_clusters_and_counts_the_classes_in():
    table = agreement({"square": np.array([0, 0, 1, 1]), "huber": np.array([1, 1, 0, 0])}, np.array([0, 1, 0, 1]))
    assert table[["first", "second"]].to_numpy().tolist() == [
        ["square", "huber"],
        ["square", "classes"],
        ["huber", "classes"],
    ]
    assert table["adjusted_rand"].iloc[0] == 1 and table["nmi"].iloc[0] == pytest.approx(1)
    assert table["adjusted_rand"].iloc[1] < 0.01 and table["nmi"].iloc[1] == pytest.approx(0)
    assert len(agreement({"square": np.array([0, 1])})) == 0


def test_fits_are_numbered_alike_and_their_rows_say_what_was_found():
    shown = pictures()
    losses = ("square", "absolute", "correntropy")
    fits = fit_losses(
        shown.features_ND, 3, {loss: GeneralisedKMeans(loss=loss, scale="std", random_state=0) for loss in losses}
    )
    for fit in fits.values():
        np.testing.assert_array_equal(fit.labels_N, fits["square"].labels_N)
        assert (fit.labels_N[fit.representative_M] == np.arange(3)).all()
    frame = results(fits, shown, dataset="d", extractor="e", seed=0)
    assert list(frame["loss"]) == list(losses) and (frame["nmi"] == 1).all() and (frame["purity"] == 1).all()
    assert "30 photographs in 3 clusters under 3 losses" in sentence(frame)
    table = clusters_table(fits, shown)
    assert list(table.columns) == ["image", "class", *losses] and len(table) == 30
    assert representatives_table(fits, shown)["pictures"].tolist() == [10] * 9


def test_a_single_class_leaves_the_scores_against_classes_empty():
    shown = pictures()
    shown = Pictures(shown.crops_NSSC, shown.features_ND, shown.names, np.zeros(30, np.int32), ("all",), ())
    frame = results(fit_losses(shown.features_ND, 3, {"square": GeneralisedKMeans(random_state=0)}), shown)
    assert frame[["nmi", "adjusted_rand", "purity"]].isna().all(axis=None)
    assert "one class only" in sentence(frame)


def test_feature_maps_are_what_the_layers_put_out():
    network = SmallNet()
    images_BHWC = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    maps = feature_maps(network, images_BHWC, ["first", "second"])
    with torch.no_grad():
        expected = network.first(network.to_input(images_BHWC))
    np.testing.assert_allclose(maps["first"], expected.numpy(), rtol=1e-5)
    assert maps["second"].shape == (2, 12, 3, 3) and (maps["second"] >= 0).all()
    assert not network.first._forward_hooks


def test_layers_are_chosen_from_first_to_last_or_by_name():
    network = SmallNet()
    assert convolutions(network) == ["first", "second.0"] == chosen_layers(network, None)
    assert chosen_layers(network, ["second"]) == ["second"]
    with pytest.raises(InputError, match="layer 'third'.*first, second.0"):
        chosen_layers(network, ["third"])
    with pytest.raises(InputError, match="'extra', whose output is no map"):
        network.extra = torch.nn.Identity()
        feature_maps(network, torch.zeros(1, 8, 8, 3, dtype=torch.uint8), ["extra"])


def test_mosaic_shows_the_strongest_channels_stretched():
    maps_CHW = np.zeros((11, 2, 2))
    maps_CHW[10] = [[4, 4], [4, 8]]
    maps_CHW[3] = [[0, 1], [0, 0]]
    canvas = mosaic(maps_CHW)
    assert canvas.shape == (8, 8)
    np.testing.assert_array_equal(canvas[:2, :2], [[0, 0], [0, 1]])
    np.testing.assert_array_equal(canvas[:2, 3:5], [[0, 1], [0, 0]])
    assert np.isnan(canvas[2]).all()
    assert np.isnan(mosaic(maps_CHW[:1])[3:]).all()


def test_figures_have_a_row_per_loss_and_per_image():
    shown = pictures()
    fits = fit_losses(
        shown.features_ND, 3, {loss: GeneralisedKMeans(loss=loss, random_state=0) for loss in ("square", "absolute")}
    )
    figure = representatives_figure(fits, shown)
    assert len(figure.axes) == 6 and figure.axes[3].get_ylabel() == "absolute"
    assert len(feature_maps_figure(shown.crops_NSSC[:2], {"first": np.zeros((2, 5, 4, 4))}).axes) == 4


def write_images(root, names):
    for place, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shade = np.full((10, 12, 3), 25 * place, np.uint8)
        Image.fromarray(shade).save(root / name)


def test_pictures_are_read_in_order_and_damaged_ones_left_out(tmp_path):
    write_images(tmp_path, ["a/1.png", "a/2.png", "b/1.png", "c/1.png"])
    (tmp_path / "c/1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    network = RandomProjectionExtractor(embedding_dim=4, image_size=8, channel_order="RGB", seed=0)
    shown = read_pictures(ImageFolder(tmp_path, top_up_to=0), network)
    assert shown.names == ("a/1.png", "a/2.png", "b/1.png") and shown.labels_N.tolist() == [0, 0, 1]
    assert shown.classes == ("a", "b") and [name for name, _ in shown.rejected] == ["c/1.png"]
    assert shown.crops_NSSC[:, 0, 0, 0].tolist() == [0, 25, 50]
    np.testing.assert_allclose(
        shown.features_ND, network.embed_images(torch.from_numpy(shown.crops_NSSC)).numpy(), rtol=1e-5
    )


def test_pictures_that_cannot_be_used_at_all(tmp_path, monkeypatch):
    write_images(tmp_path, ["a/1.png"])
    network = RandomProjectionExtractor(embedding_dim=4, image_size=8, channel_order="RGB", seed=0)
    monkeypatch.setattr("experiments.image_clustering.pictures.MAX_BYTES", 100)
    with pytest.raises(InputError, match="images_per_identity"):
        read_pictures(ImageFolder(tmp_path, top_up_to=0), network)
    monkeypatch.undo()
    (tmp_path / "a/1.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match="none readable"):
        read_pictures(ImageFolder(tmp_path, top_up_to=0), network)

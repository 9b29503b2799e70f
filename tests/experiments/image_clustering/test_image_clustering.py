# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.extractors.random_projection import RandomProjectionExtractor
from datamodules.partitioners.generalised_kmeans import GeneralisedKMeans
from experiments.image_clustering.compare_losses import (
    against_classes,
    agreement,
    clusters,
    representatives_table,
    results,
    sentence,
)
from experiments.image_clustering.feature_maps import chosen_layers, convolutions, feature_maps
from experiments.image_clustering.figures import feature_maps_figure, mosaic, representatives_figure
from experiments.image_clustering.fits import Fit, fit_losses, in_common_order, representatives


class SmallNet(RandomProjectionExtractor):
    """Two convolutions before the projection, for the maps."""

    def __init__(self):
        super().__init__(embedding_dim=4, image_size=8, channel_order="RGB", seed=0)
        self.first = torch.nn.Conv2d(3, 5, 3, padding=1)
        self.second = torch.nn.Sequential(torch.nn.Conv2d(5, 12, 3, stride=2), torch.nn.ReLU())
        self.pool = torch.nn.AdaptiveAvgPool2d(1)

    def embed(self, x_BCHW):
        return self.pool(self.second(self.first(x_BCHW))).flatten(1)


def pictures(n=30, classes=("a", "b", "c")):
    features_ND, labels_N = make_blobs(n, 6, centers=3, cluster_std=0.3, random_state=0)
    order = np.argsort(labels_N, kind="stable")
    labels_N = labels_N[order].astype(np.int32) if len(classes) > 1 else np.zeros(n, np.int32)
    files = tuple(f"{classes[label]}/{row}.png" for row, label in enumerate(labels_N))
    return EmbeddingSet(features_ND[order].astype(np.float32), labels_N, classes, files)


def fits_of(shown, *losses):
    estimators = {loss: GeneralisedKMeans(loss=loss, scale="std", n_init=3, random_state=0) for loss in losses}
    return fit_losses(shown.embeddings, 3, estimators)


def test_clusters_take_the_numbers_of_those_they_share_most_with():
    reference = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    renamed = np.array([2, 2, 1, 0, 0, 1, 1, 1])
    assert in_common_order(renamed, reference, 3).tolist() == [2, 0, 1]


def test_representative_is_the_member_with_the_least_loss():
    points = np.array([[0.0], [1.0], [2.2], [50.0], [52.0], [57.0]])
    fitted = GeneralisedKMeans(2, loss="absolute", init=[[0.0], [50.0]]).fit(points)
    assert representatives(fitted, points).tolist() == [1, 4]


def test_agreement_is_one_for_renamed_clusters_and_counts_the_classes_in():
    fits = {
        loss: Fit(np.array(labels), np.array([0, 2]), 0.0, 1, 0.0)
        for loss, labels in (("square", [0, 0, 1, 1]), ("huber", [1, 1, 0, 0]))
    }
    classes = EmbeddingSet(np.eye(4), np.array([0, 0, 0, 1]), ("a", "b"))
    table = agreement(fits, classes)
    assert [*zip(table["first"], table["second"], strict=True)] == [
        ("square", "huber"),
        ("square", "classes"),
        ("huber", "classes"),
    ]
    assert table["adjusted_rand"].iloc[0] == 1 and table["nmi"].iloc[0] == pytest.approx(1)
    assert table["adjusted_rand"].iloc[1] < 0.5 and table["nmi"].iloc[1] < 0.5
    alone = EmbeddingSet(np.eye(4), np.zeros(4, np.int32), ("a",))
    assert len(agreement(fits, alone)) == 1


def test_purity_by_hand():
    fit = Fit(np.array([0, 0, 0, 1, 1]), np.array([0, 3]), 0.0, 1, 0.0)
    classes = EmbeddingSet(np.eye(5), np.array([0, 0, 1, 1, 1]), ("a", "b"))
    assert against_classes(fit, classes)["purity"] == pytest.approx(4 / 5)


def test_fits_are_numbered_alike_and_their_rows_say_what_was_found():
    shown, losses = pictures(), ("square", "absolute", "correntropy")
    fits = fits_of(shown, *losses)
    for fit in fits.values():
        np.testing.assert_array_equal(fit.labels_N, fits["square"].labels_N)
        assert (fit.labels_N[fit.representative_M] == np.arange(3)).all()
    frame = results(fits, shown, dataset="d", seed=0)
    assert list(frame["loss"]) == list(losses) and (frame["nmi"] > 0.999).all() and (frame["purity"] == 1).all()
    assert "30 photographs in 3 clusters under 3 losses" in sentence(frame)
    table = clusters(fits, shown)
    assert list(table.columns) == ["image", "class", *losses] and len(table) == 30
    assert representatives_table(fits, shown)["pictures"].tolist() == [10] * 9


def test_a_single_class_leaves_the_scores_against_classes_empty():
    shown = pictures(classes=("all",))
    frame = results(fits_of(shown, "square"), shown)
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
    image = np.zeros((8, 8, 3), np.uint8)
    figure = representatives_figure(fits_of(shown, "square", "absolute"), shown, dict.fromkeys(range(30), image))
    assert len(figure.axes) == 6 and figure.axes[3].get_ylabel() == "absolute"
    assert len(feature_maps_figure([image, image], {"first": np.zeros((2, 5, 4, 4))}).axes) == 4

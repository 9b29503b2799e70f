# SPDX-License-Identifier: MIT
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from datamodules.errors import InputError
from datamodules.partitioners.centre_losses import CentreLoss
from datamodules.partitioners.generalised_kmeans import LOSSES, GeneralisedKMeans, GeneralisedKMeansPartitioner

pytestmark = pytest.mark.filterwarnings("ignore:Skipping check")


@parametrize_with_checks([GeneralisedKMeans(loss=loss) for loss in LOSSES])
def test_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def unit_rows(n=60, dim=8, groups=4, seed=0):
    points, labels = make_blobs(n, dim, centers=groups, cluster_std=0.5, random_state=seed)
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), labels


def test_square_loss_is_lloyds_algorithm_of_scikit_learn():
    points, _ = make_blobs(300, 6, centers=7, cluster_std=4.0, random_state=3)
    first = points[:7]
    theirs = KMeans(7, init=first, n_init=1, tol=0, algorithm="lloyd").fit(points)
    ours = GeneralisedKMeans(7, init=first).fit(points)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_)
    np.testing.assert_allclose(ours.inertia_, theirs.inertia_)


@pytest.mark.parametrize("loss", LOSSES)
def test_well_separated_groups_are_found(loss):
    points, truth = make_blobs(150, 5, centers=3, cluster_std=0.5, random_state=0)
    fitted = GeneralisedKMeans(3, loss=loss, scale="std", n_init=5, random_state=0).fit(points)
    assert adjusted_rand_score(truth, fitted.labels_) == 1
    np.testing.assert_array_equal(fitted.predict(points), fitted.labels_)


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_objective_never_rises_and_no_cluster_is_empty(loss, data):
    # Few distinct values: coinciding points and ties are the hard case.
    n = data.draw(st.integers(1, 14))
    m = data.draw(st.integers(1, n))
    points = data.draw(arrays(np.float64, (n, 2), elements=st.sampled_from([0.0, 1.0, 1.5, 2.0, 7.0, -30.0])))
    fitted = GeneralisedKMeans(m, loss=loss, random_state=data.draw(st.integers(0, 99))).fit(points)
    history = np.array(fitted.objective_history_)
    assert (np.diff(history) <= 1e-9 * (1 + history[:-1])).all()
    assert np.bincount(fitted.labels_, minlength=m).min() >= 1
    assert fitted.inertia_ == history[-1]


@pytest.mark.parametrize("loss", LOSSES)
def test_inertia_is_the_objective_of_labels_and_centres(loss):
    points, _ = make_blobs(80, 4, centers=3, random_state=1)
    fitted = GeneralisedKMeans(3, loss=loss, random_state=0).fit(points)
    direct = sum(
        fitted._loss.value(np.float64(x) - c)
        for point, label in zip(points, fitted.labels_, strict=True)
        for x, c in zip(point, fitted.cluster_centers_[label], strict=True)
    )
    np.testing.assert_allclose(fitted.inertia_, direct, rtol=1e-9)


def test_bounded_losses_shrug_off_what_drags_the_mean():
    points, truth = make_blobs(100, 3, centers=[[0] * 3, [10] * 3], cluster_std=0.5, random_state=0)
    spoilt = np.vstack([points, [[60.0] * 3, [70.0] * 3]])
    first = np.array([[1.0] * 3, [9.0] * 3])
    centres = {
        loss: GeneralisedKMeans(2, loss=loss, init=first).fit(spoilt).cluster_centers_[1].mean()
        for loss in ("square", "correntropy", "absolute")
    }
    assert centres["square"] > 11.5
    assert abs(centres["absolute"] - 10) < 0.3 and abs(centres["correntropy"] - 10) < 0.3
    assert truth.sum() == 50


@pytest.mark.parametrize("loss", LOSSES)
def test_scale_in_standard_deviations_makes_the_clusters_free_of_units(loss):
    points, _ = make_blobs(60, 4, centers=3, cluster_std=3.0, random_state=2)
    kwargs = {"n_clusters": 3, "loss": loss, "scale": "std", "random_state": 0}
    np.testing.assert_array_equal(
        GeneralisedKMeans(**kwargs).fit(points).labels_, GeneralisedKMeans(**kwargs).fit(points * 1000).labels_
    )


def test_same_seed_same_fit_and_more_seedings_never_do_worse():
    points, _ = make_blobs(90, 4, centers=9, cluster_std=2.0, random_state=5)
    once, again = (GeneralisedKMeans(9, loss="absolute", random_state=7).fit(points) for _ in range(2))
    np.testing.assert_array_equal(once.labels_, again.labels_)
    assert GeneralisedKMeans(9, loss="absolute", n_init=6, random_state=7).fit(points).inertia_ <= once.inertia_


def test_more_clusters_than_distinct_points_warns_nobody_and_leaves_none_empty():
    fitted = GeneralisedKMeans(4, random_state=0).fit(np.zeros((5, 2)))
    assert sorted(np.bincount(fitted.labels_)) == [1, 1, 1, 2]
    assert fitted.inertia_ == 0


def test_float32_is_kept_and_a_loss_of_ones_own_is_accepted():
    class Cube(CentreLoss):
        exact = False

        def value(self, residual):
            return np.abs(residual) ** 3

        def centre(self, members_CD, start_D):
            middle_D = (members_CD.min(axis=0) + members_CD.max(axis=0)) / 2
            better = self.per_coordinate(members_CD, middle_D) < self.per_coordinate(members_CD, start_D)
            return np.where(better, middle_D, start_D)

    points, _ = unit_rows()
    fitted = GeneralisedKMeans(4, loss=Cube(), random_state=0).fit(points)
    assert fitted.cluster_centers_.dtype == np.float32
    assert clone(fitted).loss is not None
    assert len(set(fitted.labels_)) == 4


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_clusters": 6}, "1 to 5"),
        ({"n_clusters": 0}, "1 to 5"),
        ({"loss": "cubic"}, "one of square"),
        ({"loss": "huber", "delta": 0}, "delta"),
        ({"scale": "mad"}, "'std'"),
        ({"init": "random"}, "k-means"),
        ({"init": [[0.0, 1.0]]}, "one row per cluster"),
        ({"max_iter": 0}, "at least 1"),
    ],
)
def test_impossible_parameters_are_refused_in_one_line(kwargs, message):
    with pytest.raises(InputError, match=message):
        GeneralisedKMeans(**{"n_clusters": 2, **kwargs}).fit(np.arange(10.0).reshape(5, 2))


def test_predict_before_fit_is_refused():
    with pytest.raises(NotFittedError):
        GeneralisedKMeans().predict([[0.0]])


@pytest.mark.parametrize("loss", LOSSES)
def test_partitioner_finds_the_groups_and_notes_its_arguments(loss):
    means, truth = unit_rows()
    partition = GeneralisedKMeansPartitioner(loss=loss, n_init=5).fit(means, m=4, seed=1)
    assert adjusted_rand_score(truth, partition.cluster_of) == 1
    assert partition.provenance["arguments"]["loss"] == loss

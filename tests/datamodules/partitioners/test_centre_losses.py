# SPDX-License-Identifier: MIT
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar
from scipy.special import huber as scipy_huber
from scipy.special import pseudo_huber as scipy_pseudo_huber

from datamodules.errors import InputError
from datamodules.partitioners.centre_losses import (
    Absolute,
    Correntropy,
    EpsilonInsensitive,
    Huber,
    PseudoHuber,
    Square,
)

ALL = [Square(), Absolute(), Huber(0.7), PseudoHuber(0.7), Correntropy(0.9), EpsilonInsensitive(0.4)]
CONVEX = [loss for loss in ALL if not isinstance(loss, Correntropy)]
RESIDUALS = np.concatenate([np.linspace(-5, 5, 201), [1e-9, -1e-9, 0.7, -0.7, 300.0]])


def identify(loss):
    return type(loss).__name__


@pytest.mark.parametrize("delta", [0.3, 2.0])
def test_huber_values_agree_with_scipy(delta):
    np.testing.assert_allclose(Huber(delta).value(RESIDUALS), scipy_huber(delta, RESIDUALS), rtol=1e-12)
    np.testing.assert_allclose(PseudoHuber(delta).value(RESIDUALS), scipy_pseudo_huber(delta, RESIDUALS), rtol=1e-12)


def test_values_by_hand():
    np.testing.assert_allclose(Square().value(np.array([-3.0])), 9)
    np.testing.assert_allclose(Absolute().value(np.array([-3.0])), 3)
    np.testing.assert_allclose(EpsilonInsensitive(0.5).value(np.array([-3.0, 0.4, 0.5])), [2.5, 0, 0])
    np.testing.assert_allclose(Correntropy(2.0).value(np.array([0, 2.0, -1e6])), [0, 1 - np.exp(-0.5), 1])


@pytest.mark.parametrize("loss", ALL, ids=identify)
def test_value_is_even_grows_with_distance_and_spares_its_argument(loss):
    residual = np.linspace(0, 6, 100)
    kept = residual.copy()
    value = loss.value(residual)
    assert value[0] == 0 and (np.diff(value) >= 0).all()
    np.testing.assert_array_equal(loss.value(-residual), value)
    np.testing.assert_array_equal(residual, kept)


@pytest.mark.parametrize("loss", [Huber(0.7), PseudoHuber(0.7), Correntropy(0.9)], ids=identify)
def test_weight_is_the_slope_over_the_residual(loss):
    residual = np.array([-4.0, -0.71, -0.2, 0.05, 0.5, 0.9, 3.0])
    slope = (loss.value(residual + 1e-6) - loss.value(residual - 1e-6)) / 2e-6
    factor = loss.length**2 if isinstance(loss, Correntropy) else 1  # weights are stated up to a constant
    np.testing.assert_allclose(loss.weight(residual), factor * slope / residual, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 8, 41])
@pytest.mark.parametrize("loss", CONVEX, ids=identify)
def test_convex_centre_is_as_good_as_a_numerical_search(loss, n):
    members = np.random.default_rng(n).standard_t(2, (n, 3))
    centre = loss.centre(members, members[0])
    reached = loss.per_coordinate(members, centre)
    for d in range(3):
        x = members[:, d]
        best = minimize_scalar(
            lambda mu, x=x: loss.value(x - mu).sum(), bounds=(x.min() - 1, x.max() + 1), method="bounded"
        )
        assert reached[d] <= best.fun + 1e-7


def test_epsilon_insensitive_with_zero_epsilon_is_the_median_of_numpy():
    members = np.random.default_rng(0).normal(size=(8, 4))
    np.testing.assert_allclose(EpsilonInsensitive(0.0).centre(members, members[0]), np.median(members, axis=0))
    np.testing.assert_allclose(Absolute().centre(members, members[0]), np.median(members, axis=0))


def test_huber_goes_from_median_to_mean_as_delta_grows():
    members = np.random.default_rng(0).standard_t(2, (31, 4))
    np.testing.assert_allclose(Huber(1e4).centre(members, members[0]), members.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(Huber(1e-3).centre(members, members[0]), np.median(members, axis=0), atol=2e-3)


def test_correntropy_ignores_outliers_however_far_and_however_narrow_its_kernel():
    members = np.array([[0.0], [0.1], [-0.1], [1e8]])
    np.testing.assert_allclose(Correntropy(1.0).centre(members, np.array([1e8])), [0.0], atol=1e-6)
    far = Correntropy(1e-3).centre(np.array([[0.0], [10.0]]), np.array([5.0]))
    assert np.isfinite(far).all()


@pytest.mark.parametrize("loss", ALL, ids=identify)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_centre_never_raises_the_objective(loss, data):
    numbers = st.floats(-100, 100, width=32)
    n = data.draw(st.integers(1, 9))
    members = data.draw(arrays(np.float64, (n, 2), elements=numbers))
    start = data.draw(arrays(np.float64, 2, elements=numbers))
    kept = members.copy()
    after = loss.per_coordinate(members, loss.centre(members, start))
    before = loss.per_coordinate(members, start)
    assert (after <= before + 1e-9 * (1 + before)).all()
    np.testing.assert_array_equal(members, kept)


@pytest.mark.parametrize("loss", ALL, ids=identify)
def test_centre_moves_with_its_members(loss):
    members = np.random.default_rng(3).normal(size=(12, 5))
    moved = loss.centre(members + 40.0, members[0] + 40.0)
    np.testing.assert_allclose(moved, loss.centre(members, members[0]) + 40.0, atol=1e-5)


def test_blocks_do_not_change_the_sums(monkeypatch):
    members, loss = np.random.default_rng(0).normal(size=(50, 7)), PseudoHuber(1.0)
    rows, columns = loss.to_centre(members, members[0]), loss.per_coordinate(members, members[0])
    monkeypatch.setattr("datamodules.partitioners.centre_losses.CHUNK_ELEMENTS", 10)
    np.testing.assert_allclose(loss.to_centre(members, members[0]), rows)
    np.testing.assert_allclose(loss.per_coordinate(members, members[0]), columns)


@pytest.mark.parametrize(
    ("maker", "value"), [(Huber, 0.0), (PseudoHuber, -1.0), (Correntropy, np.inf), (EpsilonInsensitive, -0.1)]
)
def test_impossible_lengths_are_refused(maker, value):
    with pytest.raises(InputError, match="finite number"):
        maker(value)

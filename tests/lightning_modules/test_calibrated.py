# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from lightning_modules.decisions.argmax import Argmax
from lightning_modules.decisions.calibrated import HIGHEST, Calibrated, best_factor
from lightning_modules.identifier import Identifier
from lightning_modules.routers.nearest_class import NearestClass


def outputs(b=300, c=7, seed=0, factor=9.0):
    """Outputs whose true classes follow the softmax under a factor."""
    random = np.random.default_rng(seed)
    z_bC = random.uniform(-1, 1, (b, c))
    return z_bC, np.array([random.choice(c, p=p) for p in softmax(factor * z_bC, axis=1)])


def nll(z_bC, truth_b, log_factor):
    return -log_softmax(np.exp(log_factor) * z_bC, axis=1)[np.arange(len(z_bC)), truth_b].mean()


@pytest.mark.parametrize("factor", [2.0, 9.0, 40.0])
def test_the_factor_is_the_one_another_optimiser_finds(factor):
    z_bC, truth_b = outputs(factor=factor)
    expected = minimize_scalar(
        lambda f: nll(z_bC, truth_b, f), bounds=(-2, 7), method="bounded", options={"xatol": 1e-7}
    )
    blocks = [
        (torch.from_numpy(z), torch.from_numpy(t))
        for z, t in ((z_bC[:100], truth_b[:100]), (z_bC[100:], truth_b[100:]))
    ]
    assert best_factor(blocks) == pytest.approx(np.exp(expected.x), rel=1e-3)


def test_two_outputs_have_a_closed_form():
    # All leads are 1, a share q is right: sigmoid(s) = q.
    z_bC = torch.tensor([[1.0, 0.0]]).repeat(10, 1)
    assert best_factor([(z_bC, torch.tensor([0] * 8 + [1] * 2))]) == pytest.approx(np.log(4), rel=1e-3)


def test_outputs_without_an_error_take_the_largest_factor():
    assert best_factor([(torch.eye(3), torch.arange(3))]) == pytest.approx(1000, rel=1e-3)


def decide(decision, made, routed):
    return decision.decide(made.scores(), torch.from_numpy(np.asarray(routed)))


def test_the_score_is_the_log_odds_of_the_softmax_under_the_factor_of_its_cluster(parts):
    made, factors = parts(k=14, m=3, cluster_of=np.arange(14) % 3), np.array([4.0, 9.0, 2.0])
    routed = np.stack([np.random.default_rng(b).permutation(3)[:2] for b in range(17)])
    found = decide(Calibrated(factor_M=torch.from_numpy(factors)), made, routed)
    for b, clusters in enumerate(routed):
        p = {c: softmax(factors[c] * made.outputs(c)[b]) for c in clusters}
        best = max(clusters, key=lambda c: p[c].max())
        assert int(found.cluster_B[b]) == best
        assert int(found.identity_B[b]) == made.partition.members(best)[p[best].argmax()]
        odds = np.log(p[best].max() / (1 - p[best].max()))
        assert float(found.score_B[b]) == pytest.approx(odds, abs=1e-4)


def test_one_cluster_each_gives_the_answers_of_argmax(parts):
    made, routed = parts(), np.random.default_rng(0).integers(4, size=(17, 1))
    one, other = decide(Calibrated(factor=3.0), made, routed), decide(Argmax(), made, routed)
    assert torch.equal(one.identity_B, other.identity_B) and torch.equal(one.cluster_B, other.cluster_B)


def test_a_cluster_of_one_class_has_a_finite_score(parts):
    made = parts(k=9, m=2, cluster_of=np.array([0] * 8 + [1]))
    found = decide(Calibrated(), made, [[0, 1]] * 17)
    assert found.cluster_B.unique().tolist() == [1] and found.score_B.unique().tolist() == [HIGHEST]


def fitted(made, truth, decision):
    names = tuple(map(str, range(len(made.means_KD))))
    means = torch.from_numpy(made.means_KD)
    identifier = Identifier(names, means, made.partition, decision, NearestClass(2), made.heads())
    return identifier.fitted(None, torch.from_numpy(made.probes_BD), torch.from_numpy(truth), seed=0)


def test_each_cluster_is_fitted_to_the_probes_of_its_own_identities(parts):
    made = parts(k=12, m=3, cluster_of=np.arange(12) % 3, batch=200)
    random = np.random.default_rng(1)  # nothing is known of the third cluster; the truth follows a factor of 6
    cluster_of = random.integers(2, size=200)
    local = [random.choice(4, p=softmax(6 * made.outputs(c)[b])) for b, c in enumerate(cluster_of)]
    truth = cluster_of + 3 * np.array(local)
    found = fitted(made, truth, Calibrated()).decision.factor_M.numpy()
    own = [(made.outputs(c)[truth % 3 == c], truth[truth % 3 == c] // 3) for c in (0, 1)]
    for c, (z, t) in enumerate(own):
        assert nll(z, t, np.log(found[c])) <= min(nll(z, t, f) for f in np.linspace(-2.3, 6.9, 200)) + 1e-6
    together = [nll(own[0][0], own[0][1], f) * len(own[0][1]) + nll(own[1][0], own[1][1], f) * len(own[1][1]) for f in
                (np.log(found[2]) - 0.05, np.log(found[2]), np.log(found[2]) + 0.05)]  # fmt: skip
    assert together[1] <= min(together) + 1e-3


def test_without_any_validation_probe_the_factor_stays(parts):
    made = parts(batch=1)
    found = fitted(made, np.array([0]), Calibrated(17.0))
    empty = found.fitted(None, torch.zeros(0, 6), torch.zeros(0, dtype=torch.long), seed=0)
    assert empty.decision.factor_M.tolist() == [17.0] * 4


def test_ranks_go_on_behind_the_answer(parts):
    made = parts()
    routed = torch.tensor([[0, 2]] * 17)
    ranked, decided = Calibrated(5.0).rank(made.scores(), routed, 20), Calibrated(5.0).decide(made.scores(), routed)
    assert torch.equal(ranked.identity_BT[:, 0], decided.identity_B)
    for b in range(17):
        p = np.concatenate([softmax(5 * made.outputs(c)[b]) for c in (0, 2)])
        order = np.concatenate([made.partition.members(c) for c in (0, 2)])[np.argsort(-p, kind="stable")]
        assert [i for i in ranked.identity_BT[b].tolist() if i >= 0] == order.tolist()


def test_unusable_arguments_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        Calibrated(0.0)

# SPDX-License-Identifier: MIT
import faiss
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from datamodules.class_means import class_means, normalise_rows
from lightning_modules.heads.linear import LinearHead
from lightning_modules.heads.low_rank import LowRankHead
from lightning_modules.initialisers import PrototypeInit, RandomInit
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.losses.normface import NormFace
from lightning_modules.losses.softmax import Softmax
from tests.lightning_modules.projected_head import ProjectedHead
from tests.lightning_modules.small_fits import fit, head_of, plain_loop, same_weights


def rows(classes=7, dim=5, seed=0):
    return torch.randn(classes, dim, generator=torch.Generator().manual_seed(seed)) * 3


def probes(batch=11, dim=5, seed=1):
    return F.normalize(torch.randn(batch, dim, generator=torch.Generator().manual_seed(seed)))


def test_outputs_are_cosines_and_with_rows_of_any_length_products():
    weight, x = rows(), probes()
    cosine = (x.numpy() @ weight.numpy().T) / np.linalg.norm(weight.numpy(), axis=1)
    np.testing.assert_allclose(LinearHead(weight)(x).detach(), cosine, atol=1e-6)
    np.testing.assert_allclose(LinearHead(weight, unit_rows=False)(x).detach(), x.numpy() @ weight.numpy().T, atol=1e-5)


def test_a_head_has_its_own_float32_copy_of_the_rows():
    weight = rows().double()
    head = LinearHead(weight)
    assert head.weight_CD.dtype == torch.float32 and [p.shape for p in head.parameters()] == [(7, 5)]
    with torch.no_grad():
        head.weight_CD.zero_()
    assert weight.abs().sum() > 0


def test_rows_are_of_unit_length_only_where_outputs_are_cosines():
    torch.testing.assert_close(LinearHead(rows()).rows().norm(dim=1), torch.ones(7))
    assert torch.equal(LinearHead(rows(), unit_rows=False).rows(), rows())


class Squared(ClassificationLoss):
    """A loss that is no margin loss: squared distance of the true cosine from 1."""

    def forward(self, cosine_BC, target_B):
        return (1 - cosine_BC.gather(1, target_B[:, None]).squeeze(1)) ** 2


@pytest.mark.parametrize("loss", [ArcFace(), Softmax(), Squared()], ids=lambda loss: type(loss).__name__)
def test_the_loss_of_a_head_is_the_loss_of_its_outputs(loss):
    head, x, target = LinearHead(rows(), unit_rows=loss.unit_rows), probes(), torch.arange(11) % 7
    expected = loss(head(x), target)
    (by_weight,) = torch.autograd.grad(expected.sum(), head.weight_CD)
    found = head.loss(x, target, loss)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(found.sum(), head.weight_CD)
    torch.testing.assert_close(gradient, by_weight, rtol=1e-4, atol=1e-4)


def test_random_rows_have_the_variance_of_he_and_do_not_look_at_the_means():
    # He et al., ICCV 2015, eq. 10: variance 2 / D; 64,000 numbers tell it to about 1 %.
    means = torch.zeros(500, 128)
    drawn = RandomInit().rows(means, torch.Generator().manual_seed(0))
    assert drawn.shape == (500, 128) and drawn.dtype == torch.float32
    assert float(drawn.var()) == pytest.approx(2 / 128, rel=0.03) and abs(float(drawn.mean())) < 0.002
    again = RandomInit().rows(means + 1, torch.Generator().manual_seed(0))
    other = RandomInit().rows(means, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, again) and not torch.equal(drawn, other)


def test_before_training_a_prototype_head_is_the_nearest_class_mean(toy_split):
    embedding_set, splits = toy_split
    means = class_means(embedding_set.embeddings, splits.train, splits.n_identities)
    head = LinearHead(PrototypeInit().rows(torch.from_numpy(means), torch.Generator()))
    x = normalise_rows(embedding_set.embeddings[splits.test.rows])
    index = faiss.IndexFlatIP(means.shape[1])
    index.add(means)
    assert head(torch.from_numpy(x)).argmax(1).tolist() == index.search(x, 1)[1].ravel().tolist()


def test_prototype_rows_are_a_copy():
    means = rows()
    PrototypeInit().rows(means, torch.Generator()).zero_()
    assert torch.equal(means, rows())


def gradients(value, head):
    """Of all parameters, by name."""
    names, parameters = zip(*head.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value.sum(), parameters), strict=True))


@pytest.mark.parametrize("rank", [1, 3, 5, 64])
def test_a_low_rank_head_starts_at_the_best_approximation_of_its_rows(rank):
    weight = rows().numpy()
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    kept = min(rank, 5)
    head = LowRankHead(torch.from_numpy(weight), rank)
    assert [tuple(value.shape) for value in (head.factor_Cr, head.basis_rD)] == [(7, kept), (kept, 5)]
    np.testing.assert_allclose(head.weight().detach(), (u[:, :kept] * s[:kept]) @ vt[:kept], atol=1e-5)
    assert kept < 5 or np.allclose(head.weight().detach(), weight, atol=1e-5)


@pytest.mark.parametrize("loss", [ArcFace(16.0), Softmax(), Squared()], ids=lambda loss: type(loss).__name__)
def test_a_low_rank_head_is_a_linear_head_of_the_rows_a_b(loss):
    x, target = probes(), torch.arange(11) % 7
    head = LowRankHead(rows(), 2, unit_rows=loss.unit_rows)
    plain = LinearHead(head.factor_Cr.detach() @ head.basis_rD.detach(), unit_rows=loss.unit_rows)
    torch.testing.assert_close(head(x), plain(x))
    found, by_rows = head.loss(x, target, loss), gradients(loss(plain(x), target), plain)["weight_CD"]
    torch.testing.assert_close(found, loss(plain(x), target), rtol=1e-4, atol=1e-5)
    # The chain rule: d/dA = G B^T and d/dB = A^T G for the gradient G of the rows.
    by_factor = gradients(found, head)
    torch.testing.assert_close(by_factor["factor_Cr"], by_rows @ head.basis_rD.detach().T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(by_factor["basis_rD"], head.factor_Cr.detach().T @ by_rows, rtol=1e-4, atol=1e-4)


def bent(**more):
    """A projected head that has left its start."""
    head = ProjectedHead(rows(), hidden=6, **more)
    with torch.no_grad():
        for layer, seed in ((head.down, 2), (head.up, 3)):
            layer.weight.copy_(0.3 * rows(*layer.weight.shape, seed=seed))
    return head


def test_a_projected_head_starts_as_a_linear_head():
    torch.testing.assert_close(ProjectedHead(rows())(probes()), LinearHead(rows())(probes()))
    assert (bent()(probes()) - LinearHead(rows())(probes())).abs().max() > 0.1


def test_a_projected_head_is_its_formula_in_numpy():
    head, x = bent(), probes().double().numpy()
    weight, down, up = (one.detach().double().numpy() for one in (head.weight_CD, head.down.weight, head.up.weight))
    moved = x + np.maximum(x @ down.T, 0) @ up.T
    expected = moved / np.linalg.norm(moved, axis=1)[:, None] @ (weight / np.linalg.norm(weight, axis=1)[:, None]).T
    np.testing.assert_allclose(head(probes()).detach(), expected, atol=1e-5)


HEADS = {"low_rank": (LowRankHead, {"rank": 3}), "projected": (ProjectedHead, {"hidden": 4, "lr": 0.003})}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("loss", [NormFace(4.0), Squared()], ids=lambda loss: type(loss).__name__)
def test_a_head_trains_as_a_plain_loop_over_all_its_parameters(data, name, loss):
    kind, options = HEADS[name]

    def make():
        torch.manual_seed(0)  # of the projection's first layer
        return head_of(kind=kind, **options)

    network, _ = fit(data, loss, epochs=2, head=make())
    plain_loop(data, head := make(), loss, epochs=2)
    same_weights(network.head, head, rtol=1e-5, atol=2e-6)
    for one, start in zip(network.head.parameters(), make().parameters(), strict=True):
        assert (one - start).abs().max() > 0.01


@pytest.mark.parametrize("lr, of_the_projection", [(0.003, 0.003), (None, 0.01)])
def test_the_learning_rate_of_a_projection_reaches_the_optimiser(data, lr, of_the_projection):
    network, _ = fit(data, epochs=1, head=head_of(kind=ProjectedHead, lr=lr))
    rates = {parameter: group["lr"] for group in network.optimizers().param_groups for parameter in group["params"]}
    assert rates == {
        network.head.weight_CD: 0.01, network.head.down.weight: of_the_projection,
        network.head.up.weight: of_the_projection,
    }  # fmt: skip


def test_a_head_without_rank_is_refused():
    with pytest.raises(ValueError, match="expected"):
        LowRankHead(rows(), rank=0)

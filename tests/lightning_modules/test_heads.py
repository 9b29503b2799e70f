# SPDX-License-Identifier: MIT
import faiss
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from datamodules.class_means import class_means, normalise_rows
from lightning_modules.heads import Head, PrototypeInit, RandomInit
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.losses.softmax import Softmax


def rows(classes=7, dim=5, seed=0):
    return torch.randn(classes, dim, generator=torch.Generator().manual_seed(seed)) * 3


def probes(batch=11, dim=5, seed=1):
    return F.normalize(torch.randn(batch, dim, generator=torch.Generator().manual_seed(seed)))


def test_outputs_are_cosines_and_with_rows_of_any_length_products():
    weight, x = rows(), probes()
    cosine = (x.numpy() @ weight.numpy().T) / np.linalg.norm(weight.numpy(), axis=1)
    np.testing.assert_allclose(Head(weight)(x).detach(), cosine, atol=1e-6)
    np.testing.assert_allclose(Head(weight, unit_rows=False)(x).detach(), x.numpy() @ weight.numpy().T, atol=1e-5)


def test_a_head_has_its_own_float32_copy_of_the_rows():
    weight = rows().double()
    head = Head(weight)
    assert head.weight_CD.dtype == torch.float32 and [p.shape for p in head.parameters()] == [(7, 5)]
    with torch.no_grad():
        head.weight_CD.zero_()
    assert weight.abs().sum() > 0


def test_rows_are_of_unit_length_only_where_outputs_are_cosines():
    torch.testing.assert_close(Head(rows()).rows().norm(dim=1), torch.ones(7))
    assert torch.equal(Head(rows(), unit_rows=False).rows(), rows())


class Squared(ClassificationLoss):
    """A loss that is no margin loss: squared distance of the true cosine from 1."""

    def forward(self, cosine_BC, target_B):
        return (1 - cosine_BC.gather(1, target_B[:, None]).squeeze(1)) ** 2


@pytest.mark.parametrize("loss", [ArcFace(), Softmax(), Squared()], ids=lambda loss: type(loss).__name__)
def test_the_loss_of_a_head_is_the_loss_of_its_outputs(loss):
    head, x, target = Head(rows(), loss.unit_rows), probes(), torch.arange(11) % 7
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
    head = Head(PrototypeInit().rows(torch.from_numpy(means), torch.Generator()))
    x = normalise_rows(embedding_set.embeddings[splits.test.rows])
    index = faiss.IndexFlatIP(means.shape[1])
    index.add(means)
    assert head(torch.from_numpy(x)).argmax(1).tolist() == index.search(x, 1)[1].ravel().tolist()


def test_prototype_rows_are_a_copy():
    means = rows()
    PrototypeInit().rows(means, torch.Generator()).zero_()
    assert torch.equal(means, rows())

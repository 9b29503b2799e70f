# SPDX-License-Identifier: MIT
from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss

from experiments.facenet.training import load_miners
from lightning_modules.embedding_networks import Projection
from lightning_modules.triplet import TripletModule, mine, squared_distances, triplet_loss

ALPHA = 0.2


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(24, 3, generator=generator)), torch.arange(24) % 5


def miner(name):
    from hydra.utils import instantiate

    cfg = OmegaConf.create({"miners": [name], "alpha": ALPHA})
    return instantiate(load_miners(cfg)[name])


def brute_force(name, z, label):
    """Triplets as their definitions read, one by one."""
    distance = torch.cdist(z.double(), z.double()) ** 2
    rows = range(len(z))
    triplets = [(a, p, n) for a, p, n in permutations(rows, 3) if label[a] == label[p] and label[a] != label[n]]
    if name == "batch_hard":
        best = {}
        for a, p, n in triplets:
            hardest = best.setdefault(a, [p, n])
            hardest[0] = p if distance[a, p] > distance[a, hardest[0]] else hardest[0]
            hardest[1] = n if distance[a, n] < distance[a, hardest[1]] else hardest[1]
        return {(a, p, n) for a, (p, n) in best.items()}
    gap = {t: float(distance[t[0], t[2]] - distance[t[0], t[1]]) for t in triplets}
    low = 0 if name == "semi_hard" else -np.inf
    return {t for t in triplets if low < gap[t] <= ALPHA}


@pytest.mark.parametrize("anchors", [24, 7, 1])
@pytest.mark.parametrize("name", ["batch_all", "batch_hard", "semi_hard"])
def test_miners_find_what_their_names_say_however_the_batch_is_cut(batch, name, anchors):
    z, label = batch
    found = list(zip(*(one.tolist() for one in mine(miner(name), z, label, anchors)), strict=True))
    assert len(found) == len(set(found)) > 0
    assert set(found) == brute_force(name, z, label)


def test_loss_and_gradient_agree_with_the_published_formula(batch):
    z, label = batch
    z = z.double().requires_grad_()
    triplets = mine(miner("batch_all"), z, label)
    loss = triplet_loss(squared_distances(z), triplets, ALPHA)
    a, p, n = (z[index] for index in triplets)
    direct = torch.clamp(((a - p) ** 2).sum(1) - ((a - n) ** 2).sum(1) + ALPHA, min=0).mean()
    torch.testing.assert_close(loss, direct)
    # Along the sphere, where the embeddings move, the two have the same slope.
    slopes = [torch.autograd.grad(value, z, retain_graph=True)[0] for value in (loss, direct)]
    tangent = [slope - (slope * z).sum(1, keepdim=True) * z for slope in slopes]
    torch.testing.assert_close(tangent[0], tangent[1])


def test_loss_agrees_with_pytorch_metric_learning(batch):
    z, label = batch
    triplets = mine(miner("batch_all"), z, label)
    theirs = TripletMarginLoss(margin=ALPHA, distance=LpDistance(power=2), reducer=None)
    from pytorch_metric_learning.reducers import MeanReducer

    theirs.reducer = MeanReducer()
    torch.testing.assert_close(triplet_loss(squared_distances(z), triplets, ALPHA), theirs(z, label, triplets))


def test_by_hand_and_with_nothing_mined():
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], requires_grad=True)
    one = tuple(torch.tensor([i]) for i in (0, 1, 2))
    assert triplet_loss(squared_distances(z), one, ALPHA).item() == 0  # 2 - 4 + 0.2 < 0
    other = tuple(torch.tensor([i]) for i in (0, 2, 1))
    assert triplet_loss(squared_distances(z), other, ALPHA).item() == pytest.approx(2.2)
    none = tuple(torch.zeros(0, dtype=torch.int64) for _ in range(3))
    loss = triplet_loss(squared_distances(z), none, ALPHA)
    loss.backward()
    assert loss.item() == 0 and z.grad.abs().max() == 0


@pytest.mark.parametrize("name", ["batch_all", "batch_hard", "semi_hard"])
def test_a_few_steps_bring_people_apart(name):
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(60) % 6
    # Identity lies in two weak coordinates, noise in the others.
    samples = torch.randn(60, 10, generator=generator)
    samples[:, :2] = 0.8 * torch.tensor([[np.cos(i), np.sin(i)] for i in range(6)], dtype=torch.float32)[label]
    network = Projection(dim=4)
    network(samples)
    with torch.no_grad():
        network.layers[0].weight.copy_(torch.randn(4, 10, generator=generator) / 3)
    module = TripletModule(network, miner(name), ALPHA, partial(torch.optim.Adagrad, lr=0.05))
    module.log_dict = lambda *args, **kwargs: None
    everything = miner("batch_all")

    def hardship():
        with torch.no_grad():
            z = network(samples)
            return triplet_loss(squared_distances(z), mine(everything, z, label), ALPHA) * len(
                mine(everything, z, label)[0]
            )

    before, optimizer = hardship(), module.configure_optimizers()
    for _ in range(40):
        optimizer.zero_grad()
        module.training_step((samples, label), 0).backward()
        optimizer.step()
    assert hardship() < 0.5 * before

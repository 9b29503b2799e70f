# SPDX-License-Identifier: MIT
"""What one of two ranks computes for test_sharded_head.py; arguments: a folder for results, the rank."""

import sys
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist
from torch.nn import functional as F

from lightning_modules.active_classes import EveryClass, SampledClasses
from lightning_modules.active_head import ActiveRowsOptimizer
from lightning_modules.fused import fused_margin_softmax
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.cosface import CosFace
from lightning_modules.losses.d_softmax import DSoftmax
from lightning_modules.losses.softmax import Softmax
from lightning_modules.sharded_head import ShardedHead, ShardedSubNetwork, all_reduce, gather_rows, shard

LOSSES = {"arcface": ArcFace(), "cosface": CosFace(), "d_softmax": DSoftmax(), "softmax": Softmax()}
BOUNDS = {"whole": 1 << 30, "chunks": 4 * 24 * 2}  # bytes; two classes at a time
CHOICES = {"all": EveryClass(), "sampled": SampledClasses(0.8), "targets": SampledClasses(0.0)}
CLASSES, STEPS = 11, 20
ADAM = partial(torch.optim.Adam, lr=0.01, betas=(0.9, 0.99))


def problem(batch=24, dim=5, seed=0):
    """Embeddings (B, D), rows (C, D), targets (B,), weights of the samples in the sum (B,): the same everywhere."""
    generator = torch.Generator().manual_seed(seed)
    weight_CD = 2 * torch.randn(CLASSES, dim, generator=generator)
    target_B = torch.randint(CLASSES, (batch,), generator=generator)
    embedding_BD = F.normalize(torch.randn(batch, dim, generator=generator) + weight_CD[target_B])
    return embedding_BD, weight_CD, target_B, torch.rand(batch, generator=generator)


def trained(head, optimizer, loss):
    """Losses (STEPS,) of a few steps over changing batches."""
    losses = []
    for step in range(STEPS):
        head.step = (0, step)
        embedding_BD, _, target_B, _ = problem(batch=9, seed=step)
        optimizer.zero_grad()
        loss_B = head.loss(embedding_BD, target_B, loss)
        loss_B.mean().backward()
        optimizer.step()
        losses.append(loss_B.detach().mean())
    return torch.stack(losses)


def main(folder: Path, rank: int) -> None:
    """Computes everything on this rank and saves it as `rank-<r>.safetensors`."""
    world = 2
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found = {}
    embedding_BD, weight_CD, target_B, weight_B = problem()
    own = shard(CLASSES, rank, world)
    place_B = torch.where((target_B >= own.start) & (target_B < own.stop), target_B - own.start, -1)
    for name, loss in LOSSES.items():
        for bound, limit in BOUNDS.items():
            x, w = embedding_BD.clone().requires_grad_(), weight_CD[own].clone().requires_grad_()
            loss_B = fused_margin_softmax(x, w, place_B, loss, max_logits_bytes=limit, reduce=all_reduce)
            by_x, by_w = torch.autograd.grad((loss_B * weight_B).sum(), (x, w))
            found |= {f"{name}/{bound}/loss": loss_B.detach(), f"{name}/{bound}/by_embedding": by_x}
            found[f"{name}/{bound}/by_weight"] = gather_rows(by_w, CLASSES)
    for name, choice in CHOICES.items():
        head = ShardedHead(weight_CD, choice, 7, rank, world)
        found[f"{name}/losses"] = trained(head, ActiveRowsOptimizer(ADAM(head.parameters()), head), ArcFace(16.0))
        whole = ShardedSubNetwork(head, ArcFace(16.0)).whole_state()
        found[f"{name}/rows"] = F.normalize(whole["head.weight_CD"])
    head = ShardedHead(weight_CD, SampledClasses(0.0), 0, rank, world)
    x = problem(batch=4)[0].requires_grad_()
    loss_B = head.loss(x, torch.tensor([9, 10, 10, 9]), ArcFace())
    loss_B.sum().backward()
    found |= {"lonely/loss": loss_B.detach(), "lonely/by_embedding": x.grad, "lonely/by_active": head.chosen[1].grad}
    head = ShardedHead(weight_CD, None, 0, rank, world)
    found["best"] = head.best(embedding_BD)
    found["tie"] = ShardedHead(torch.ones(CLASSES, 5), None, 0, rank, world).best(embedding_BD)
    found["few"] = ShardedHead(weight_CD[:1], None, 0, rank, world).best(embedding_BD)  # rank 0 holds no class
    safetensors.torch.save_file({k: v.contiguous() for k, v in found.items()}, folder / f"rank-{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

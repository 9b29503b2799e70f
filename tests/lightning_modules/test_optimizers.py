# SPDX-License-Identifier: MIT
"""Our Adam against torch's."""

import pytest
import torch

from lightning_modules.optimizers import Adam


@pytest.mark.parametrize("fused", [True, False])
def test_steps_and_states_are_those_of_torch(fused):
    start, gradients = torch.randn(7, 5), torch.randn(4, 7, 5)
    ended = []
    for kind in (Adam, torch.optim.Adam):
        weight = torch.nn.Parameter(start.clone())
        optimizer = kind([weight], lr=0.01, betas=(0.9, 0.99), fused=fused)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        ended.append((weight.detach(), optimizer.state_dict()["state"][0]))
    assert torch.equal(ended[0][0], ended[1][0]) and not torch.equal(ended[0][0], start)
    assert all(torch.equal(ended[0][1][key], ended[1][1][key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_torch_still_asks_its_question_where_we_answer_it():
    # Renamed upstream, the method would be dead code, and each step half a millisecond longer on a CPU.
    assert hasattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check")

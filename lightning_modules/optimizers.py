# SPDX-License-Identifier: MIT
"""Adam without what costs a small sub-network more than its arithmetic."""

import torch


class Adam(torch.optim.Adam):
    """`torch.optim.Adam`, number for number, with arguments and states of the same names.

    Before each step torch asks whether a GPU is capturing a graph. Where there is no GPU the question loads the
    driver's library anew each time: 0.5 ms, as long as the update of 2,000 x 512 rows itself.
    """

    def _accelerator_graph_capture_health_check(self) -> None:
        if torch.cuda.is_initialized():
            super()._accelerator_graph_capture_health_check()

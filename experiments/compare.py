# SPDX-License-Identifier: MIT
"""Compare scenarios: partition the identities, train the sub-networks, evaluate, report."""

from experiments.command_line.command import command
from experiments.comparison.config import CompareConfig

main = command(
    "compare", CompareConfig, "experiments.comparison.compare.compare", "experiments.comparison.multirun.merge",
    "experiments.comparison.data.check_early", "experiments.comparison.multirun.value",
)  # fmt: skip

if __name__ == "__main__":
    main()

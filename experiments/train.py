# SPDX-License-Identifier: MIT
"""Train one scenario, or take it from a finished comparison, and save an Identifier."""

from experiments.command_line.command import command
from experiments.comparison.config import TrainConfig

main = command(
    "train", TrainConfig, "experiments.comparison.train_identifier.train_identifier",
    check="experiments.comparison.data.check_early",
)  # fmt: skip

if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""Paired speed comparisons: python -m experiments.benchmark suite=quick"""

from experiments.benchmarks.config import BenchmarkConfig
from experiments.command_line.command import command

main = command("benchmark", BenchmarkConfig, "experiments.benchmarks.compare_speed.compare_speed")

if __name__ == "__main__":
    main()

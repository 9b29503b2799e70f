# SPDX-License-Identifier: MIT
"""Multi-label classification with clustered labels: python -m experiments.multilabel data.path=FILE"""

from experiments.command_line.command import command
from experiments.label_clusters.config import MultilabelConfig

main = command("multilabel", MultilabelConfig, "experiments.label_clusters.compare_methods.compare_methods")

if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""From pictures to an EmbeddingSet: python -m experiments.prepare source.root=DIR extractor=NAME out=SET"""

from experiments.command_line.command import command
from experiments.extraction.config import PrepareConfig

main = command("prepare", PrepareConfig, "experiments.extraction.prepare.prepare")

if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""A copy of the project in which a researcher's files are written and commands are run."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from datamodules.class_means import class_means
from datamodules.embedding_set import EmbeddingSet
from datamodules.splits import Split, Splits, split_identities

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "experiments")
SMALL = ("trainer.accelerator=cpu", "trainer.threads=1", "trainer.matmul=highest", "logger=none")


@dataclass(frozen=True)
class Workbench:
    """The copy, and a small EmbeddingSet `toy` beside it.

    Attributes:
        folder: where the four packages lie and commands run.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path, embeddings: tuple) -> "Workbench":
        """Copies the packages and writes the set."""
        for name in PACKAGES:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        EmbeddingSet.write(folder / "toy", *embeddings)
        return cls(folder)

    def wish(self, files: dict[str, str]) -> None:
        """Writes the files of a wish: one Python file and one YAML at most, none of which is there already."""
        suffixes = sorted(Path(path).suffix for path in files)
        assert len(set(suffixes)) == len(suffixes) and set(suffixes) <= {".py", ".yaml"}, suffixes
        for path, content in files.items():
            assert not (self.folder / path).exists(), path
            (self.folder / path).write_text(content, encoding="utf-8")

    def run(self, *words: str, code: int = 0) -> str:
        """`python -m experiments.WORDS` in a process of its own; what it wrote, where it ended with `code`."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        ended = subprocess.run(
            [sys.executable, "-m", f"experiments.{words[0]}", *words[1:]], cwd=self.folder, capture_output=True,
            text=True, timeout=300, env=environment | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
        )  # fmt: skip
        assert ended.returncode == code, f"{' '.join(words)}\n{ended.stdout[-2000:]}\n{ended.stderr[-3000:]}"
        return ended.stdout + ended.stderr

    def train(self, name: str, *words: str, code: int = 0, scenario: str = "no_distribution") -> str:
        """`experiments.train` on the toy set, from class means, all samples in one batch unless told otherwise."""
        return self.run(
            "train", *SMALL, "data=embedding_set", "data.path=toy", "init=prototype", "trainer.batch_size=1024",
            f"scenario={scenario}", f"name={name}", *words, code=code,
        )  # fmt: skip

    def compare(self, name: str, rows: list[str], *words: str, code: int = 0) -> str:
        """`experiments.compare` on the toy set, as `train`."""
        return self.run(
            "compare", *SMALL, "data=embedding_set", "data.path=toy", "init=prototype", "trainer.batch_size=1024",
            "seeds=1", "n_subnets=2", f"scenarios={json.dumps(rows)}", f"name={name}", *words, code=code,
        )  # fmt: skip

    @property
    def data(self) -> EmbeddingSet:
        return EmbeddingSet.open(self.folder / "toy")

    @property
    def splits(self) -> Splits:
        return split_identities(self.data)

    def samples(self, split: Split) -> tuple[Tensor, Tensor]:
        """(B, D) unit embeddings and (B,) labels of a part."""
        embeddings_BD = torch.tensor(np.asarray(self.data.embeddings)[split.rows])
        return F.normalize(embeddings_BD), torch.tensor(split.labels).long()

    def means(self) -> Tensor:
        """(C, D) rows that `init=prototype` starts from."""
        return torch.tensor(class_means(self.data.embeddings, self.splits.train, self.splits.n_identities))

    def results(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / "runs" / name / "results.csv").set_index("scenario")

    def key(self, name: str, row: str) -> str:
        """Folder of the sub-networks of a row."""
        (cell,) = (self.folder / "runs" / name / "cells").glob(f"*-seed0-{row}.json")
        return json.loads(cell.read_text())["state"][0]

    def network(self, name: str, row: str | None = None, cluster: int = 0) -> tuple[dict[str, Tensor], list[dict]]:
        """Weights and history of a trained sub-network; of a run with one recipe `row` need not be named."""
        (folder,) = (self.folder / "runs" / name / "subnetworks").glob(self.key(name, row) if row else "*")
        record = json.loads((folder / f"{cluster:05d}.json").read_text())
        return load_file(folder / f"{cluster:05d}.safetensors"), record["history"]


def plain_sgd(
    bench: Workbench, steps: int, lr: float, factors: list[float] | None = None, clip: float | None = None
) -> list[Tensor]:
    """(C, D) class rows after each step of CosFace by a plain loop: SGD with the momentum and decay of sgd.yaml."""
    x_BD, target_B = bench.samples(bench.splits.train)
    weight_CD = bench.means().requires_grad_()
    velocity_CD, found = torch.zeros_like(weight_CD), []
    for step in range(steps):
        margin_BC = 0.35 * F.one_hot(target_B, len(weight_CD))
        F.cross_entropy(64 * (x_BD @ F.normalize(weight_CD).T - margin_BC), target_B).backward()
        gradient_CD = weight_CD.grad
        if clip is not None:
            gradient_CD = gradient_CD * min(1.0, clip / (gradient_CD.norm().item() + 1e-6))
        velocity_CD = 0.9 * velocity_CD + gradient_CD + 5e-4 * weight_CD.detach()
        rate = lr * (factors[step] if factors else 1.0)
        weight_CD = (weight_CD.detach() - rate * velocity_CD).requires_grad_()
        found.append(weight_CD.detach())
    return found

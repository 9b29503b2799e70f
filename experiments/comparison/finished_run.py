# SPDX-License-Identifier: MIT
"""A finished comparison, from which an Identifier is made; its folder is only read."""

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError
from datamodules.files import read_sealed
from datamodules.partitioners.base import Partition
from experiments.command_line.schema import TrainingConfig
from experiments.comparison.cells import cell_file
from experiments.comparison.coordinator import Cell, Coordinator, trained_for
from experiments.comparison.data import as_sizes
from experiments.comparison.scenarios import Scenario
from experiments.runs.run_folder import RunFolder, read_config

# Keys of the command line that are allowed with run=; all others come from the run.
ALLOWED = (
    "run",
    "scenario",
    "n_identities",
    "n_subnets",
    "seed",
    "index",
    "fpir",
    "enrol_held_out",
    "out",
    "overwrite",
    "logger",
)
CURE = "repeat the command of the run, which makes it again"
_CELL = re.compile(r"N(\d+)-m(\d+)-seed(\d+)-.+\.json")


class FinishedRun(RunFolder):
    """The folder of a finished comparison, only read: without lock, log and notes.

    Attributes:
        cfg: the run's settings, with the `ALLOWED` keys of the command line.
        sizes: all N of the run; its generated data are large enough for the largest.

    Args:
        asked: values of `config.TrainConfig`.

    Raises:
        InputError: no finished comparison, no such N, m or seed in it, no `out`, or a key that is not allowed.
    """

    def __init__(self, asked: DictConfig):
        given = [re.sub(r"[+~]*(\w+).*", r"\1", word) for word in HydraConfig.get().overrides.task]
        if others := [key for key in given if key not in ALLOWED]:
            raise InputError(f"{others[0]}= beside run=", f"keys of {', '.join(ALLOWED)}", "leave it out")
        if asked.out is None:
            raise InputError("run= without out=", "a new folder for the Identifier", "add out=identifier")
        path = Path(asked.run)
        try:
            super().__init__(path, OmegaConf.create(read_config(path / "config.yaml")))
            self.manifest = read_sealed(path / "manifest.json")
        except InputError as error:
            raise InputError(error.got, "the folder of a finished comparison", f"check run=, or {CURE}") from None
        self.files = self.manifest.get("files", {})
        cell = self._cell(asked)
        settings = {field.name for field in dataclasses.fields(TrainingConfig)} - {"name", "logger", "launcher"}
        made_with = {key: value for key, value in self.config.items() if key in settings}
        self.cfg = OmegaConf.create(
            {**OmegaConf.to_container(asked, resolve=True), **made_with, **dataclasses.asdict(cell)}
        )
        self.sizes = as_sizes(self.config["n_identities"], "n_identities")

    def _cell(self, asked: DictConfig) -> Cell:
        found = [_CELL.fullmatch(file.name) for file in self.path.glob("cells/*.json")]
        cells = sorted({tuple(map(int, one.groups())) for one in found if one})
        if not cells:
            raise InputError(f"{self.path} without results", "a finished comparison", "check run=, or finish it")
        wanted = {key: asked[key] for key in ("n_identities", "n_subnets", "seed")}
        for place, (key, value) in enumerate(wanted.items()):
            known = sorted({cell[place] for cell in cells})
            value = known[0] if value in (None, "auto") and len(known) == 1 else value
            if value not in known:
                expected = f"one of {', '.join(map(str, known))}, which {self.path} has"
                raise InputError(f"{key} = {value}", expected, f"write {key}={known[0]}")
            cells = [cell for cell in cells if cell[place] == value]
        return Cell(*cells[0])

    def __enter__(self) -> "FinishedRun":
        self._quiet = logging.NullHandler()  # the error names what is damaged; the log would repeat it
        logging.getLogger().addHandler(self._quiet)
        return self

    def __exit__(self, kind, error, trace) -> None:
        logging.getLogger().removeHandler(self._quiet)

    def note(self, soon: bool = False, **facts: Any) -> None:
        """Does nothing."""

    def check(self, coordinator: Coordinator, cell: Cell, scenario: Scenario) -> None:
        """Refuses a scenario that was not compared, or that has a missing or damaged part.

        Raises:
            InputError: such a scenario.
        """
        file = cell_file(coordinator, cell, scenario.name)
        if not file.is_file():
            of_cell = file.name.partition("-seed")[0] + f"-seed{cell.seed}-"
            known = sorted(one.stem.removeprefix(of_cell) for one in file.parent.glob(f"{of_cell}*.json"))
            expected = f"one of {', '.join(known)}, which {self.path} has"
            raise InputError(f"scenario {scenario.name!r}", expected, "name one of them, or compare it first")
        folder = coordinator.partition_folder(cell, scenario)
        try:
            self.verify(folder)
            Partition.load(folder)
        except (InputError, OSError):
            raise InputError(f"{folder}, missing or damaged", "the partition of the run", CURE) from None
        for job in (job for one in trained_for(scenario) for job in coordinator.jobs(cell, one)):
            if job.record() is None:
                raise InputError(
                    f"sub-network {job.title} in {self.path}, missing or damaged", "a trained sub-network", CURE
                )

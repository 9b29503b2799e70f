# SPDX-License-Identifier: MIT
"""A coordinator as `experiments.compare` builds it, without its report."""

import importlib
import io
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("trainer.accelerator=cpu", "trainer.threads=1", "trainer.max_epochs=2", "trainer.batch_size=16", "logger=none")


@pytest.fixture(scope="session")
def quick(set_folder) -> tuple[str, ...]:
    """Arguments that make `experiments.compare` quick: the toy set, two epochs, two clusters, no tracking."""
    return (*QUICK, "data=embedding_set", f"data.path={set_folder}", "n_subnets=2")


@pytest.fixture(scope="session")
def compose() -> Callable[..., DictConfig]:
    """`compose("compare", "seeds=1", ...)`: the configuration of a command."""

    def composed(name: str, *arguments: str) -> DictConfig:
        importlib.import_module(f"experiments.{name}")  # stores the schema that <name>.yaml names
        with hydra.initialize_config_dir(str(ROOT / "experiments/configs"), version_base="1.3"):
            return hydra.compose(name, list(arguments))

    return composed


@pytest.fixture
def coordinate(tmp_path, quick, compose):
    """`with coordinate("scenarios=[...]", name="a") as (coordinator, scenarios)`; runs in `<tmp_path>/<name>`."""

    from experiments.coordination.coordinator import Coordinator
    from experiments.coordination.data import open_data
    from experiments.coordination.run_folder import RunFolder
    from experiments.coordination.scenarios import load_scenarios

    @contextmanager
    def opened(*arguments: str, name: str = "run"):
        cfg = compose("compare", *quick, f"runs_dir={tmp_path}", *arguments)
        with RunFolder(tmp_path / name, cfg) as run:
            coordinator = Coordinator(run, open_data(cfg, None), cfg, Console(file=io.StringIO()))
            yield coordinator, {scenario.name: scenario for scenario in load_scenarios(cfg.scenarios, cfg)}

    return opened

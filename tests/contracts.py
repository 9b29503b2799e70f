# SPDX-License-Identifier: MIT
"""Finds every file of a configuration group, for the tests of what all of a kind must hold."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

CONFIGS = Path(__file__).resolve().parents[1] / "experiments" / "configs"


def build(group, name):
    """The object of a group's file."""
    try:
        return instantiate(OmegaConf.load(CONFIGS / group / f"{name}.yaml"))
    except Exception as error:  # Hydra wraps the error of a package that an extra installs
        if isinstance(error.__cause__, ModuleNotFoundError):
            pytest.skip(f"{name}: {error.__cause__}")
        raise


def each(group):
    names = sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))
    assert names, f"no file in {CONFIGS / group}"
    return pytest.mark.parametrize("name", names)

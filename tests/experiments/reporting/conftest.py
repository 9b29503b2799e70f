# SPDX-License-Identifier: MIT
import sys
from pathlib import Path

import pandas as pd
import pytest

from experiments.reporting.report import write_report

# Tests are imported by path (importlib mode), which finds no module beside them.
sys.path.insert(0, str(Path(__file__).parent))
from made_up_run import Page, fake_details, fake_results, write_run  # noqa: E402


@pytest.fixture
def make_run(tmp_path):
    """Writes made-up run folders below a temporary folder."""

    def make(name="run", data_sets=("made_up",), sizes=(5000, 10000), seeds=(0, 1, 2), details=False, **more) -> Path:
        results = more.pop("results", None)
        if results is None:
            results = fake_results(data_sets, sizes, seeds, **more)
        extra = fake_details(data_sets[0], sizes[-1], seeds) if details else None
        return write_run(tmp_path / name, results, extra)

    return make


@pytest.fixture(scope="session")
def read_page():
    """Parses an HTML file; fails when its tags are not nested properly."""
    return lambda path: Page(Path(path).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def full_run(tmp_path_factory):
    """A run with its report: one data set at two N, one synthetic at a single N, all details."""
    rows = pd.concat([fake_results(["made_up"], [5000, 10000], [0, 1, 2]), fake_results(["synthetic"], [1000], [0, 1])])
    folder = write_run(tmp_path_factory.mktemp("runs") / "full", rows, fake_details("made_up", 10000, [0, 1, 2]))
    (folder / "log.txt").write_text("done\n")
    write_report(folder)
    return folder

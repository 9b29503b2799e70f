# SPDX-License-Identifier: MIT
"""`pip install .` elsewhere: the program `clusterface` and the files that the packages need come with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "experiments")
TINY = (
    "n_identities=[24]", "data.dim=32", "data.intrinsic_dim=16", "data.samples_per_identity=8", "n_subnets=2",
    "seeds=1", "trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=none", "name=tiny",
)  # fmt: skip
ESTIMATOR = """
from sklearn.datasets import make_blobs
from lightning_modules.estimator import ClusteredClassifier
X, y = make_blobs(60, 8, centers=4, random_state=0)
print(ClusteredClassifier(n_clusters=2).fit(X, y).score(X, y))
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """`installed(word, ...)`: what a command prints, run in another folder with the installed packages."""
    folder = tmp_path_factory.mktemp("installed")
    for name in PACKAGES:  # a copy: pip would write its build folder into the checkout
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / "source")
    # Neither the network nor other versions of what is installed here.
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(folder / "site"))
    made = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(folder / "source")], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    shutil.rmtree(folder / "source")
    environment = os.environ | {"PYTHONPATH": str(folder / "site"), "PATH": f"{folder}/site/bin:{os.environ['PATH']}"}

    def run(*words: str) -> str:
        ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    found = run(sys.executable, "-c", "import experiments; print(experiments.__file__)")
    assert found.startswith(str(folder / "site")), "another copy is imported"
    return run


def test_help_and_a_comparison_with_its_report(installed, tmp_path):
    assert "\n  compare " in installed("clusterface", "--help")
    assert "n_subnets=" in installed("clusterface", "compare", "--help")
    told = installed("clusterface", "compare", *TINY, f"runs_dir={tmp_path}/runs")
    assert "report.html" in told and (tmp_path / "runs/tiny/report.html").is_file()


def test_the_estimator(installed):
    if not (ROOT / "lightning_modules/estimator.py").exists():
        pytest.skip("no lightning_modules/estimator.py yet")
    assert float(installed(sys.executable, "-c", ESTIMATOR)) > 0.9

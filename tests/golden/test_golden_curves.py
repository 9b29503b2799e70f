# SPDX-License-Identifier: MIT
"""Loss curves of the default recipe, kept from one version to the next.

`curves.json` was written by the code before sub-networks were trained by Lightning's own loop. It may change only with
a change that says in CHANGELOG.md that the same seeds give other numbers. Then: run the two commands below, copy the
histories of the finished sub-networks.
"""

import json
from pathlib import Path

import pytest

from datamodules.files import read_sealed

CURVES = json.loads((Path(__file__).parent / "curves.json").read_text(encoding="utf-8"))
COMMON = (
    # The curves are older than directions of a family's own.
    "data=synthetic", "data.own_share=0", "data.noise=0.58", "n_identities=[120]", "n_subnets=2", "seeds=1",
    "trainer.matmul=highest", "trainer.accelerator=cpu", "trainer.threads=1", "trainer.batch_size=64",
    "logger=none", "--quiet",
)  # fmt: skip
RUNS = {
    "paper": ("scenarios=[clustered_nearest,no_distribution]", "trainer.max_epochs=5"),
    "linear": ("scenarios=[clustered_nearest]", "trainer.max_epochs=3", "scheduler=linear", "init=discriminant"),
}


@pytest.mark.parametrize("run", RUNS)
def test_the_same_seeds_give_the_same_curves(call, tmp_path, run):
    assert call("compare", *RUNS[run], *COMMON, f"runs_dir={tmp_path}", "name=run").code == 0
    records = [read_sealed(file) for file in (tmp_path / "run").glob("subnetworks/*/?????.json")]
    found = {f"{run}: {record['title']}": record["history"] for record in records}
    known = {title: curve for title, curve in CURVES.items() if title.startswith(f"{run}:")}
    assert found.keys() == known.keys()
    for title, curve in known.items():
        assert len(found[title]) == len(curve)
        for epoch, values in zip(found[title], curve, strict=True):
            # Another CPU adds in another order; after five epochs the losses agree to four digits all the same.
            assert {key: epoch[key] for key in ("train/loss", "val/loss")} == pytest.approx(
                {key: values[key] for key in ("train/loss", "val/loss")}, rel=1e-4
            )
            assert epoch["val/accuracy_percent"] == pytest.approx(values["val/accuracy_percent"], abs=1.0)
            assert epoch["learning_rate"] == pytest.approx(values["learning_rate"], rel=1e-6)

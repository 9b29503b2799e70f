# SPDX-License-Identifier: MIT
"""A sub-network that fails for good costs itself alone; Ctrl-C and SIGTERM stop every launcher cleanly."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.embedding_set import EmbeddingSet
from tests.faults.tally import begun

ROOT = Path(__file__).resolve().parents[3]
PROCESSES = ("launcher=processes", "launcher.workers=2", "launcher.threads=1")


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "experiments.compare", *map(str, arguments)]


@pytest.fixture
def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def arguments(tmp_path, quick):
    """Arguments of a run in `<tmp_path>/run` whose epochs are counted in `<tmp_path>/tally`."""
    tally = ("logger._target_=tests.faults.tally.Tally", f"+logger.file={tmp_path / 'tally'}")
    return (*quick, *tally, f"runs_dir={tmp_path}", "name=run", "seeds=1", "data.path=" + str(tmp_path / "data"))


@pytest.mark.parametrize(
    "launcher", [pytest.param((), id="in_process"), pytest.param(PROCESSES, id="processes", marks=pytest.mark.slow)]
)
def test_nan_data_of_one_cluster_stop_no_other_and_a_resume_tries_that_one_alone(
    tmp_path, call, arguments, people, monkeypatch, launcher
):
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
    EmbeddingSet.write(tmp_path / "data", *people(n_identities=16))
    stored = np.load(tmp_path / "data" / "embeddings.npy", mmap_mode="r+")
    stored[:3] = np.nan  # of the first identity, which is in one of the random clusters
    stored.flush()
    arguments = (*arguments, "+data.check_values=false", "scenarios=[knn,ism]", *launcher)
    ended = call("compare", *arguments)
    said = " ".join(ended.out.replace("│", " ").split())
    assert ended.code == 1 and "DivergenceError" in said and "1 sub-networks failed" in said, ended.out + ended.err
    assert "Traceback" not in ended.out + ended.err
    assert list(pd.read_csv(tmp_path / "run" / "results.csv").scenario) == ["knn"]

    def states():
        manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
        return {
            about["file"].removeprefix("subnetworks/"): about["state"] for about in manifest["subnetworks"].values()
        }

    (failed,) = (name for name, state in states().items() if state == "failed")
    assert sorted(states().values()) == ["done", "failed"]
    (tmp_path / "tally").unlink()
    assert call("compare", *arguments).code == 1
    again = {f"{name.partition('/')[0]}/{int(name.partition('/')[2]):05d}" for name, _, _ in begun(tmp_path / "tally")}
    assert again == {failed} and sorted(states().values()) == ["done", "failed"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param((), id="in_process"),
        pytest.param(PROCESSES, id="processes", marks=pytest.mark.slow),
        pytest.param(
            ("launcher=processes", "launcher.workers=1", "trainer.devices=2", "trainer.strategy=ddp"),
            id="ddp", marks=pytest.mark.slow,
        ),
        pytest.param(("launcher=ray",), id="ray", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_stop_is_clean_and_says_how_to_go_on(tmp_path, arguments, people, environment, launcher, number):
    if launcher == ("launcher=ray",):
        pytest.importorskip("ray")
    EmbeddingSet.write(tmp_path / "data", *people(n_identities=16))
    arguments = (*arguments, "trainer.max_epochs=100000", "scenarios=[clustered_nearest]", *launcher)
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        # Where the tests run in the background of a shell, which ignores it, the child would ignore it too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while len(begun(tmp_path / "tally")) < 5 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, out + err
    assert err.splitlines()[-1] == "stopped; what is finished is kept, repeat the command to go on"
    assert "Traceback" not in out + err
    workers = {line[2] for line in begun(tmp_path / "tally")} - {process.pid}
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    assert list((tmp_path / "run").glob("subnetworks/*/*.epoch-*.safetensors"))

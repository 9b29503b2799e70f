# SPDX-License-Identifier: MIT
import csv
import json
import os
import pty
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pandas as pd
import pytest
import wandb
from hydra.utils import instantiate

from experiments.comparison.coordinator import Cell
from experiments.runs import tracking
from experiments.runs.tracking import CSVTracking, NoTracking, WandbTracking
from experiments.training.job import Job

ROOT = Path(__file__).resolve().parents[3]
NO_KEY = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_PROJECT", "NETRC")


@pytest.fixture
def jobs(coordinate) -> list[Job]:
    """The two jobs of the proposal on the toy set."""
    with coordinate("scenarios=[clustered_nearest]") as (coordinator, scenarios):
        return coordinator.jobs(Cell(16, 2, 0), scenarios["clustered_nearest"])


def test_a_job_survives_the_way_to_another_process(jobs):
    for job in jobs:
        again = Job.from_json(job.to_json())
        assert again == job and again.identifier == job.identifier and again.stem == job.stem


def test_ids_are_stable_and_one_per_sub_network(jobs):
    one, other = jobs
    ids = [
        one.identifier,
        other.identifier,
        replace(one, run_folder="/elsewhere").identifier,
        replace(one, key="k").identifier,
    ]
    assert len(set(ids)) == 4
    assert replace(one, title="another title", facts={}).identifier == one.identifier
    # Stable between processes too: no hash() of this process's making.
    code = "import sys; from experiments.training.job import Job; print(Job.from_json(sys.stdin.read()).identifier)"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, input=one.to_json(), capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.strip() == one.identifier


def test_csv_tracking_keeps_one_file_per_sub_network(jobs):
    tracking = CSVTracking()
    for job in jobs:
        logger = tracking.open(job)
        logger.log_metrics({"train/loss": 1.5, "epoch": 0}, step=3)
        logger.save()
        tracking.close()
        file = Path(job.run_folder) / "csv" / job.key / f"{job.cluster:05d}" / "metrics.csv"
        assert next(csv.DictReader(file.open()))["train/loss"] == "1.5"


def test_no_tracking_opens_nothing_and_publishes_nothing(jobs, tmp_path):
    tracking = NoTracking()
    before = sorted(tmp_path.rglob("*"))
    assert tracking.open(jobs[0]) is None
    tracking.close()
    tracking.summarise("run", tmp_path, {}, pd.DataFrame(), [])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    """An environment without any trace of Weights & Biases."""
    for name in NO_KEY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tracking, "_answers", lambda host, port: True)
    return monkeypatch


def test_without_a_key_offline_with_one_online_and_as_told_before_all(no_key, tmp_path):
    mode = lambda: WandbTracking().mode  # noqa: E731
    assert mode() == "offline"
    no_key.setenv("WANDB_API_KEY", "x" * 40)
    assert mode() == "online"
    no_key.setenv("WANDB_MODE", "disabled")
    assert mode() == "disabled"


def test_a_key_in_netrc_counts_for_its_host_alone(no_key, tmp_path):
    entry = f"machine {wandb.Settings().base_url.removeprefix('https://')} login user password secret\n"
    (tmp_path / ".netrc").write_text(entry)
    (tmp_path / ".netrc").chmod(0o600)
    assert WandbTracking().mode == "online"
    no_key.setenv("WANDB_BASE_URL", "https://wandb.example.org/")
    assert WandbTracking().mode == "offline"
    no_key.delenv("WANDB_BASE_URL")
    (tmp_path / ".netrc").write_text("what is this\n")
    assert WandbTracking().mode == "offline"
    (tmp_path / ".netrc").unlink()
    no_key.setenv("NETRC", str(tmp_path / "other"))
    (tmp_path / "other").write_text(entry)
    assert WandbTracking().mode == "online"


def test_a_key_for_the_server_that_wandb_itself_would_ask_counts(no_key, tmp_path):
    server = wandb.Settings().base_url.removeprefix("https://")
    (tmp_path / ".netrc").write_text(f"machine {server} login user password secret\n")
    assert WandbTracking().mode == "online"


def test_a_server_that_does_not_answer_costs_no_training(no_key, jobs):
    modes = []

    def init(**arguments):
        modes.append(arguments["mode"])
        return MagicMock(spec=wandb.sdk.wandb_run.Run)

    with socket.socket() as nobody:  # bound, but nobody listens: a connection is refused
        nobody.bind(("127.0.0.1", 0))
        no_key.undo()
        no_key.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        no_key.setenv("WANDB_API_KEY", "x" * 40)
        no_key.delenv("WANDB_MODE", raising=False)
        no_key.setattr(wandb, "init", init)
        assert WandbTracking().open(jobs[0]) is not None and modes == ["offline"]


def test_a_server_that_refuses_the_key_costs_no_training(no_key, jobs):
    modes = []

    def init(**arguments):
        modes.append(arguments["mode"])
        if arguments["mode"] == "online":
            raise wandb.errors.AuthenticationError("this key is not known")
        return MagicMock(spec=wandb.sdk.wandb_run.Run)

    no_key.setenv("WANDB_API_KEY", "x" * 40)
    no_key.setattr(wandb, "init", init)
    assert WandbTracking().open(jobs[0]) is not None and modes == ["online", "offline"]


def test_a_summary_says_of_every_row_its_metrics_and_their_units(no_key, tmp_path):
    opened = MagicMock(spec=wandb.sdk.wandb_run.Run, summary={})
    arguments = {}
    no_key.setattr(wandb, "init", lambda **given: arguments.update(given) or opened)
    rows = {
        "dataset": ["lfw"] * 3,
        "seed": [0, 1, 0],
        "method": ["ours", "ours", "theirs"],
        "f1": [40.0, 42.0, 30.0],
        "validated_f1": [50.0, 50.0, float("nan")],
        "nmi": [0.5, 0.7, 0.25],
        "train_seconds": [1.0, 3.0, 9.0],
        "note": ["", "", "slow"],
    }
    WandbTracking().summarise("run", tmp_path, {"a": 1}, pd.DataFrame(rows), [])
    assert (arguments["group"], arguments["job_type"], arguments["config"]) == ("run", "summary", {"a": 1})
    assert opened.summary == pytest.approx(
        {
            "f1_percent/lfw/ours": 41.0,
            "f1_sd_points/lfw/ours": 2**0.5,
            "validated_f1_sd_points/lfw/ours": 0.0,
            "nmi_sd/lfw/ours": 0.02**0.5,
            "train_seconds_sd/lfw/ours": 2**0.5,
            "validated_f1_percent/lfw/ours": 50.0,
            "nmi/lfw/ours": 0.6,
            "train_seconds/lfw/ours": 2.0,
            "f1_percent/lfw/theirs": 30.0,
            "nmi/lfw/theirs": 0.25,
            "train_seconds/lfw/theirs": 9.0,
        }
    )


def test_the_config_of_a_sub_network_has_names_data_and_split(no_key, jobs):
    arguments = {}
    no_key.setattr(wandb, "init", lambda **given: arguments.update(given) or MagicMock(spec=wandb.sdk.wandb_run.Run))
    margin = replace(jobs[0].recipe, loss={**jobs[0].recipe.loss, "margin": 0.3})
    WandbTracking(tags=["mine"], entity="team").open(replace(jobs[0], recipe=margin, facts={"dataset": "toy"}))
    config = arguments["config"]
    assert config["loss"] == "arcface(margin=0.3)" and config["optimizer"] == "adam" and config["init"] == "random"
    assert config["data"] == jobs[0].data and config["split.max_test_images"] == 5 and config["max_epochs"] == 2
    assert not any(isinstance(value, dict) for value in config.values())
    assert arguments["entity"] == "team" and arguments["tags"] == ["mine", "toy"]


def test_entity_tags_and_one_run_are_keys_of_the_command(compose):
    node = compose("compare", "logger.entity=team", "logger.tags=[a,b]", "logger.per_subnetwork=false").logger
    built = instantiate(node)
    assert (built.entity, built.tags, built.per_subnetwork) == ("team", ["a", "b"], False)


def test_one_run_has_a_table_of_sub_networks_instead_of_a_run_for_each(no_key, call, quick, tmp_path):
    no_key.setattr("experiments.comparison.compare.write_report", lambda folder: None)
    kept = [word for word in quick if not word.startswith("logger")]
    ended = call(
        "compare", *kept, "logger=wandb", "logger.per_subnetwork=false", "seeds=2", "scenarios=[clustered_nearest]",
        f"runs_dir={tmp_path}", "name=run",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (file,) = folder.rglob("subnetworks_*.table.json")
    table = json.loads(file.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert len(rows) == 4 and {row["classes"] for row in rows} <= set(range(1, 16))
    assert all(row["epochs"] == 2 and row["train/loss"] > 0 and "seed" in row["title"] for row in rows)
    assert b"f1_sd_points/N=16/clustered_nearest" in next(folder.glob("run-*.wandb")).read_bytes()


# The command, but for its report: drawing takes seconds. One figure stands for those of the report.
COMPARE = """
import base64
import experiments.compare as compare
import experiments.reporting.report as report
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
def write_report(folder):
    (folder / "figures").mkdir()
    (folder / "figures" / "dot.png").write_bytes(base64.b64decode(DOT))
report.write_report = write_report
compare.main()
"""


def test_without_a_key_a_run_is_tracked_offline_and_nobody_is_asked(no_key, tmp_path, quick):
    terminal, ours = pty.openpty()  # a terminal to ask at, if anybody wanted to ask
    arguments = (
        *quick,
        "logger=wandb",
        "seeds=1",
        "scenarios=[clustered_nearest]",
        f"runs_dir={tmp_path}",
        "name=tracked",
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    try:
        ran = subprocess.run(
            [sys.executable, "-c", COMPARE, *arguments], stdin=ours, capture_output=True, text=True,
            cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, timeout=300,
        )  # fmt: skip
    finally:
        os.close(terminal)
        os.close(ours)
    assert ran.returncode == 0, ran.stderr
    assert "authorize" not in ran.stdout + ran.stderr and "Enter your choice" not in ran.stdout + ran.stderr
    folders = list((tmp_path / "tracked" / "wandb").glob("offline-run-*"))
    records = [next(folder.glob("run-*.wandb")).read_bytes() for folder in folders]
    assert len(records) == 3 and all(
        b"tracked" in record for record in records
    )  # two sub-networks, a summary, one group
    (summary,) = [record for record in records if b"figures/dot" in record]
    for word in (b"accuracy_percent/N=16/clustered_nearest", b"f1_percent/N=16/clustered_nearest", b"figures/dot"):
        assert word in summary
    for record in records:
        if record != summary:
            for word in (b"train/loss", b"val/accuracy_percent", b"learning_rate", b"time/epoch_seconds",
                         b"time/samples_per_second", b"memory/peak_mb"):  # fmt: skip
                assert word in record
    assert not list(tmp_path.glob("wandb"))  # all of it lies in the run folder

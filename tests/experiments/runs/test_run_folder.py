# SPDX-License-Identifier: MIT
import errno
import fcntl
import json
import logging
import os
import shlex
import signal

import pytest
from omegaconf import OmegaConf

from datamodules.errors import InputError
from experiments.runs.run_folder import RunFolder, run_name

SETTINGS = {
    "loss": {"scale": 64.0, "name": "arcface"},
    "seeds": 3,
    "logger": {"_target_": "x"},
    "trainer": {"max_epochs": 5},
}


def config(**changes):
    return OmegaConf.merge(OmegaConf.create(SETTINGS), OmegaConf.create(changes))


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_new_folder_gets_configuration_manifest_and_log(tmp_path):
    with RunFolder(tmp_path / "a" / "run", config()) as run:
        logging.getLogger("some.module").info("a line for the log")
        run.note(one=1)
        run.note(two=2)
    assert OmegaConf.load(run.path / "config.yaml") == config()
    assert run.manifest["one"] == 1 and run.manifest["two"] == 2 and "provenance" in run.manifest
    assert "a line for the log" in (run.path / "log.txt").read_text()
    logging.getLogger("some.module").info("too late")
    assert "too late" not in (run.path / "log.txt").read_text()


def test_a_run_goes_on_under_the_same_settings(tmp_path):
    with RunFolder(tmp_path / "run", config()) as run:
        run.note(one=1)
    with RunFolder(tmp_path / "run", config(seeds=[0, 5], logger={"project": "mine"})) as run:
        assert run.manifest["one"] == 1


@pytest.mark.parametrize(
    "changes, word",
    [
        (dict(loss={"scale": 32.0}), "loss.scale = 32.0"),
        (dict(loss={"new": 1}), "loss.new = 1"),
        (dict(trainer={"max_epochs": 6}, loss={"scale": 1}), "and 1 more"),
    ],
)
def test_a_run_of_other_settings_is_refused_and_not_touched(tmp_path, changes, word):
    with RunFolder(tmp_path / "run", config()):
        pass
    before = content(tmp_path / "run")
    with pytest.raises(InputError, match=word), RunFolder(tmp_path / "run", config(**changes)):
        pytest.fail("the block must not run")
    assert content(tmp_path / "run") == before


def test_a_folder_of_something_else_is_refused_and_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="no run folder"), RunFolder(tmp_path, config()):
        pytest.fail("the block must not run")
    assert content(tmp_path) == {"thesis.txt": b"years"}
    with pytest.raises(InputError), RunFolder(tmp_path / "thesis.txt", config()):
        pytest.fail("the block must not run")
    with pytest.raises(InputError), RunFolder(tmp_path / "thesis.txt" / "run", config()):
        pytest.fail("the block must not run")


DAMAGES = pytest.mark.parametrize("damage", [b"a: [1", b"", b"- 1\n", b"\xff\xfe", b"a: ${b}\n"], ids=str)


@DAMAGES
@pytest.mark.parametrize("name", ["config.yaml", "manifest.json"])
def test_damage_to_one_of_the_two_files_that_know_the_settings_is_mended(tmp_path, name, damage):
    with RunFolder(tmp_path / "run", config()):
        pass
    whole = (tmp_path / "run" / "config.yaml").read_bytes()
    (tmp_path / "run" / name).write_bytes(damage)
    with pytest.raises(InputError), RunFolder(tmp_path / "run", config(loss={"scale": 32.0})):
        pytest.fail("the block must not run")
    with RunFolder(tmp_path / "run", config()):
        pass
    assert (tmp_path / "run" / "config.yaml").read_bytes() == whole
    with RunFolder(tmp_path / "run", config()) as run:
        assert run.manifest["config_hash"] == run.config_hash


@DAMAGES
def test_damage_to_both_is_refused(tmp_path, damage):
    with RunFolder(tmp_path / "run", config()):
        pass
    for name in ("config.yaml", "manifest.json"):
        (tmp_path / "run" / name).write_bytes(damage)
    with pytest.raises(InputError), RunFolder(tmp_path / "run", config()):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json"])
def test_every_flipped_bit_of_the_settings_is_mended(tmp_path, name):
    with RunFolder(tmp_path / "run", config()):
        pass
    file = tmp_path / "run" / name
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 1 + 8 * len(whole) // 30):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        with RunFolder(tmp_path / "run", config()) as run:
            assert run.manifest["config_hash"] == run.config_hash
        assert OmegaConf.load(run.path / "config.yaml") == config()


def test_what_a_killed_process_left_in_a_folder_it_had_just_made_is_no_obstacle(tmp_path):
    (tmp_path / "run").mkdir()
    for name in (".lock", ".config.yaml.x1y2.tmp"):
        (tmp_path / "run" / name).write_text("half")
    with RunFolder(tmp_path / "run", config()) as run:
        assert not list(run.path.glob(".*.tmp"))


def test_the_manifest_names_files_by_their_hash_after_they_are_written(tmp_path):
    with RunFolder(tmp_path / "run", config()) as run:
        (run.path / "a").mkdir()
        (run.path / "a" / "b.txt").write_bytes(b"abc")
        run.note_files(run.path / "a" / "b.txt")
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with RunFolder(tmp_path / "run", config()) as run:
        assert run.manifest["files"] == {"a/b.txt": expected}


def test_notes_that_may_wait_are_written_at_the_end(tmp_path):
    with RunFolder(tmp_path / "run", config()) as run:
        before = (run.path / "manifest.json").read_bytes()
        run.note(soon=True, one=1)
        assert run.manifest["one"] == 1 and (run.path / "manifest.json").read_bytes() == before
    assert json.loads((run.path / "manifest.json").read_text())["one"] == 1


def test_an_input_error_after_training_has_begun_keeps_a_new_folder(tmp_path):
    with pytest.raises(InputError), RunFolder(tmp_path / "run", config()) as run:
        (run.path / "subnetworks").mkdir()
        raise InputError("a", "b", "c")
    assert (tmp_path / "run" / "config.yaml").exists()


def test_one_process_at_a_time(tmp_path):
    with RunFolder(tmp_path / "run", config()):
        with (
            pytest.raises(InputError, match=rf"in use.*process {os.getpid()} on"),
            RunFolder(tmp_path / "run", config()),
        ):
            pytest.fail("the block must not run")
    with RunFolder(tmp_path / "run", config()):
        pass


def test_the_lock_of_a_process_that_was_killed_is_no_obstacle(tmp_path):
    """Whoever has the number of the dead process by now, and on whatever machine it ran."""
    child = os.fork()
    if child == 0:
        RunFolder(tmp_path / "run", config()).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    said = (tmp_path / "run" / ".lock").read_text()
    assert f"process {child} " in said
    (tmp_path / "run" / ".lock").write_text(said.replace(f"process {child} ", f"process {os.getppid()} "))
    with RunFolder(tmp_path / "run", config()):
        assert f"process {os.getpid()} " in (tmp_path / "run" / ".lock").read_text()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(InputError, match="without locks"), RunFolder(tmp_path / "run", config()):
        pytest.fail("the block must not run")


def test_bad_input_leaves_no_new_folder_but_keeps_one_that_was_there(tmp_path):
    def fail(name):
        with pytest.raises(InputError), RunFolder(tmp_path / name, config()):
            raise InputError("a", "b", "c")

    fail("new")
    assert not (tmp_path / "new").exists()
    with RunFolder(tmp_path / "old", config()) as run:
        run.note(one=1)
    fail("old")
    assert run.manifest["one"] == 1


def test_any_other_error_keeps_the_folder_so_that_the_run_can_go_on(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "run", config()):
        raise ZeroDivisionError
    with RunFolder(tmp_path / "run", config()) as run:
        assert run.manifest


def test_the_name_of_a_run_tells_its_settings_apart_and_not_where_it_runs():
    name = run_name("compare", "toy", config())
    assert name.startswith("compare-toy-") and name == run_name("compare", "toy", config(logger={"_target_": "y"}))
    others = [config(seeds=2), config(loss={"scale": 1.0}), config(trainer={"max_epochs": 6})]
    assert len({name, *(run_name("compare", "toy", other) for other in others)}) == 4


def test_provenance_has_one_hash_and_a_command_that_can_be_pasted(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["data.dim=8", "data.intrinsic_dim=4", "n_identities=20", "scenario=knn", "logger=none"]
    words += ["trainer.threads=1", 'name="Zoe\'s run"']
    ended = call("train", *words)
    assert ended.code == 0, ended.err
    text = (tmp_path / "runs/Zoe's run/manifest.json").read_text()
    command = json.loads(text)["provenance"]["command"]
    assert shlex.split(command) == ["python", "-m", "experiments.train", *words]
    assert text.count('"config_hash"') == 1
    made = json.loads((tmp_path / "runs/Zoe's run/identifier/identifier.json").read_text())
    assert made["provenance"]["scenario"] == "knn"

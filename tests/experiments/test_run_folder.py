# SPDX-License-Identifier: MIT
import logging

import pytest
from omegaconf import OmegaConf

from datamodules.errors import InputError
from experiments.coordination.run_folder import RunFolder, provenance, run_name

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


@pytest.mark.parametrize("damage", [b"a: [1", b"", b"- 1\n", b"\xff\xfe", b"a: ${b}\n"], ids=str)
@pytest.mark.parametrize("name", ["config.yaml", "manifest.json"])
def test_a_damaged_folder_is_refused(tmp_path, name, damage):
    with RunFolder(tmp_path / "run", config()):
        pass
    (tmp_path / "run" / name).write_bytes(damage)
    with pytest.raises(InputError), RunFolder(tmp_path / "run", config()):
        pytest.fail("the block must not run")


def test_one_process_at_a_time(tmp_path):
    with RunFolder(tmp_path / "run", config()):
        with pytest.raises(InputError, match="in use"), RunFolder(tmp_path / "run", config()):
            pytest.fail("the block must not run")
    with RunFolder(tmp_path / "run", config()):
        pass


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


def test_the_provenance_hash_is_that_of_the_settings():
    one, same, other = (
        provenance(settings)["config_hash"] for settings in (SETTINGS, {**SETTINGS}, {**SETTINGS, "seeds": 4})
    )
    assert one == same != other

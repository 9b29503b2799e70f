# SPDX-License-Identifier: MIT
"""Wrong uses: each ends with exit code 2 and one line, before anything is written."""

import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from experiments.command_line.command import known_keys, quoted
from experiments.compare import CompareConfig
from experiments.compare import main as compare
from experiments.train import main as train


def misspelt(key, meant):
    return f"{key}; expected a key of this command; cure: correct the key, or see --help; did you mean {meant}?"


WRONG = [
    (compare, "n_identitis=3", misspelt("n_identitis", "n_identities")),
    (compare, "data.pth=x", misspelt("data.pth", "data.path")),
    (compare, "split.held_ot=1", misspelt("split.held_ot", "split.held_out")),
    (compare, "loss.scle=3", misspelt("loss.scle", "loss.scale")),
    (compare, "+n_subnts=2", "n_subnts; expected one of"),
    (compare, "loss=arcfac", "loss=arcfac; expected one of"),
    (compare, "trainer.max_epoch=3", "trainer.max_epoch; expected trainer.max_epochs"),
    (compare, "name=../x", "name=../x; expected the name of a folder inside runs_dir"),
    (compare, "name=a/b", "name=a/b; expected the name of a folder inside runs_dir"),
    (compare, "seeds=[-1]", "seeds with -1; expected numbers of at least 0"),
    (train, "seed=-1", "seed with -1; expected numbers of at least 0"),
    (compare, "n_identities=1,2", "a configuration that cannot be used: Ambiguous value for argument"),
    (compare, "scenarios=[]", "scenarios = []; expected"),
    (compare, "data.path=no such folder, é [1]", "no folder no such folder, é [1]; expected an EmbeddingSet folder"),
    (compare, "data.path=l'été/漢字", "no folder l'été/漢字; expected an EmbeddingSet folder"),
]  # fmt: skip


def ends(main, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", *words, "logger=none", "--quiet"])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("main", "word", "first"), WRONG, ids=[word for _, word, _ in WRONG])
def test_a_wrong_use_is_one_line_and_writes_nothing(main, word, first, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, text = ends(main, [word], monkeypatch, capsys)
    assert code == 2
    assert text.startswith(f"error: got {first}") and text.count("\n") == 1 and "; cure: " in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("inside", [".", "Zoë"])
def test_a_folder_of_pictures_is_told_of_prepare(inside, tmp_path, monkeypatch, capsys):
    (tmp_path / "faces" / inside).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "faces" / inside / "1.jfif", format="JPEG")
    code, text = ends(compare, [f"data.path={tmp_path / 'faces'}"], monkeypatch, capsys)
    assert code == 2 and "a folder of pictures" in text and "experiments.prepare source.root=" in text


@pytest.mark.parametrize("value", ["/données/é", "/a,b", "/it's", "/x [1]", "/(y)/{z}", 'say "so"/', "/漢字", "a=b/c"])
def test_a_path_arrives_as_it_was_typed(value):
    assert OverridesParser.create().parse_override(quoted(f"data.path={value}", False)).value() == value


@pytest.mark.parametrize(
    "word", ["seed=3", "n_identities=[1,2]", "loss=null", "out='a b'", "--cfg", "lr=1e-3", "a=x:y"]
)
def test_what_hydra_reads_stays_as_it_is(word):
    assert quoted(word, False) == word and quoted(word, True) == word


def test_values_of_a_multirun_stay_a_sweep():
    assert quoted("loss.margin=0.3,0.5", True) == "loss.margin=0.3,0.5"


def test_keys_of_groups_are_known():
    assert {"seeds", "split.held_out", "data.path", "loss.scale"} <= set(known_keys(CompareConfig))

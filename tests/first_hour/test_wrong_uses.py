# SPDX-License-Identifier: MIT
"""Wrong uses: each ends with exit code 2 and one line, before anything is written."""

import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from experiments.benchmark import main as benchmark
from experiments.command_line.words import for_hydra, known_keys, quoted
from experiments.compare import CompareConfig
from experiments.compare import main as compare
from experiments.enrol import main as enrol
from experiments.export import main as export
from experiments.identify import main as identify
from experiments.multilabel import main as multilabel
from experiments.prepare import main as prepare
from experiments.train import main as train
from experiments.train_facenet import TrainFacenetConfig
from experiments.train_facenet import main as train_facenet
from experiments.verify import main as verify


def misspelt(key, meant):
    return f"{key}; expected a key of this command; cure: correct the key, or see --help; did you mean {meant}?"


WRONG = [
    (compare, "n_identitis=3", misspelt("n_identitis", "n_identities")),
    (compare, "data.pth=x", misspelt("data.pth", "data.path")),
    (compare, "split.held_ot=1", misspelt("split.held_ot", "split.held_out")),
    (compare, "loss.scle=3", misspelt("loss.scle", "loss.scale")),
    (compare, "+n_subnts=2", misspelt("n_subnts", "n_subnets")),
    (compare, "suit=all", misspelt("suit", "suite")),
    (compare, "--quite", "--quite; expected key=value, or a flag such as --quiet; cure: see --help; did you"),
    (compare, "loss", "'loss'; expected key=value; cure: see --help; did you mean loss=...?"),
    (compare, "loss=arcfac", "loss=arcfac; expected one of"),
    (compare, "trainer.max_epoch=3", "trainer.max_epoch; expected an argument of Lightning's Trainer or batch_size"),
    (compare, "name=../x", "name=../x; expected the name of a folder inside runs_dir"),
    (compare, "name=a/b", "name=a/b; expected the name of a folder inside runs_dir"),
    (compare, "seeds=[-1]", "seeds with -1; expected numbers of at least 0"),
    (train, "seed=-1", "seed with -1; expected numbers of at least 0"),
    (compare, "n_identities=1,2", "n_identities=1,2, several values; expected one value; cure: n_identities=[1,2]"),
    (compare, "loss=a,b", "loss=a,b, several values; expected one value; cure: -m for a run of each: -m loss=a,b"),
    (enrol, "remove=Müller,Zoë", "remove=Müller,Zoë, several values; expected one value; cure: remove=[Müller,Zoë]"),
    (compare, "scenarios=[knn,loss.margin=0.3]", "scenarios=[knn,loss.margin=0.3], which Hydra cannot read; expected"),
    (compare, "optimizer.momentum=0.9", "optimizer.momentum, which the chosen optimizer does not have; expected"),
    (compare, "split.held_out=abc", "split.held_out=abc; expected a number; cure: correct the value"),
    (compare, "metrics=abc", "metrics=abc; expected a list in brackets; cure: correct the value"),
    (compare, "split=null", "split=null; expected a value for one of split.copies_together, split.held_out"),
    (compare, "data=null", "data=null; expected a choice of the group; cure: python -m experiments.list data"),
    (compare, "data=embedding_set", "no data.path; expected the folder of an EmbeddingSet; cure: add data.path=..."),
    (multilabel, "data=nowhere", "data=nowhere; expected a value for one of data.path, data.xml; cure: "),
    (compare, ["data=synthetic", "data.path=x"], "data.path, which the chosen data does not have; expected data.n"),
    (benchmark, "logger=none", "logger; expected a key of this command"),
    (prepare, ["source.root=x", "extractor=dlib"], "no out; expected the EmbeddingSet to make; cure: add out=..."),
    (prepare, [], "no extractor; expected one of clip, dinov2, dlib, "),
    (compare, "data.path=[a,b]", "no folder [a,b]; expected an EmbeddingSet folder"),
    (compare, "scenarios=[]", "scenarios = []; expected at least one, none twice; cure: "),
    (compare, "scenarios=[kn]", "scenario 'kn'; expected one of"),
    (compare, "trainer.accelerator=cppu", "trainer.accelerator = cppu; expected one of auto, cpu, gpu, cuda, mps, tpu"),
    (compare, "n_subnets=abc", "n_subnets = abc; expected auto, a positive whole number or a list of them; cure: "),
    (compare, ["n_subnets=[2,8]", "n_identities=9"], "n_subnets = [2, 8] with 1 N (9); expected auto, one m, or one"),
    (compare, "loss.scale=abc", "loss.scale=abc; expected a number; cure: correct loss.scale"),
    (compare, "partitioner.n_init=abc", "partitioner.n_init=abc; expected a whole number; cure: correct"),
    (compare, "optimizer.lr=abc", "optimizer.lr=abc; expected a number; cure: correct optimizer.lr"),
    (compare, "loss.margin=-1", "ArcFace with scale 64.0, margin -1; expected scale > 0 and 0 <= margin"),
    (compare, "trainer.precision=abc", "trainer.precision = abc (Precision 'abc' is invalid."),
    (compare, "trainer.accelerator=tpu", "trainer.accelerator = tpu ("),
    (train, ["run=nowhere", "out=x"], "no folder nowhere; expected the folder of a finished comparison; cure: "),
    (multilabel, "data.path=[a.arff]", "no file a.arff; expected a file NAME.arff with its NAME.xml, or NAME.mat"),
    (prepare, ["source.root=x", "extractor=dlib", "out=y"], "no folder x; expected a folder of pictures or record"),
    (identify, ["identifier=x", "images=."], "no folder x; expected an Identifier folder; cure: check identifier="),
    (enrol, ["identifier=x", "remove=[Müller,O'Brien]"], "no folder x; expected an Identifier folder; cure: check"),
    (export, ["identifier=x", "out=y"], "no folder x; expected an Identifier folder; cure: check identifier="),
    (identify, ["identifier=x"], "none of embeddings=, images=; expected one of them; cure: add one, see --help"),
    (enrol, ["identifier=x"], "none of embeddings=, images=, remove=, move=; expected one of them; cure: "),
    (export, ["out=x"], "none of identifier=, embeddings=; expected one of them; cure: "),
    (compare, "metrics=[confident]", "metric 'confident'; expected one of confident_accuracy; cure: "),
    (compare, "evaluate=val", "evaluate=val; expected one of test, validation; cure: set evaluate"),
    (compare, ["evaluate=validation", "refit=train_val"], "refit= beside evaluate=validation; expected one of them"),
    (train, "refit=yes", "refit=yes; expected one of null, train_val; cure: "),
    (train_facenet, "miners=[semi]", "miner 'semi'; expected one of batch_all, batch_hard, semi_hard; cure: "),
    (train_facenet, "miners=[semi_hard,semi_hard]", "miners = ['semi_hard', 'semi_hard']; expected some of batch_all,"),
    (multilabel, ["data.path=x", "methods=[ml_kn]"], "label_method 'ml_kn'; expected one of binary_relevance, binary"),
    (verify, ["data.path=x", "pairs=y", "extractor=dlib"], "extractor=, although without source= the data are embed"),
    (verify, ["data.path=x", "source=bin", "source.path=y", "extractor=dlib"], "data.path=, although source= has its"),
    (prepare, ["source=arrays", "source.embeddings=x", "out=y", "alignment=dlib"], "alignment=, although source="),
    (compare, "data.path=no such folder, é [1]", "no folder no such folder, é [1]; expected an EmbeddingSet folder"),
    (compare, "data.path=l'été/漢字", "no folder l'été/漢字; expected an EmbeddingSet folder"),
]  # fmt: skip


def ends(main, words, monkeypatch, capsys):
    quiet = ["--quiet"] if main in (enrol, export, identify, prepare) else ["logger=none", "--quiet"]
    monkeypatch.setattr(sys, "argv", ["command", *words, *quiet])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("main", "words", "first"), WRONG, ids=[f"{number}" for number in range(len(WRONG))])
def test_a_wrong_use_is_one_line_and_writes_nothing(main, words, first, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, text = ends(main, [words] if isinstance(words, str) else words, monkeypatch, capsys)
    assert code == 2
    assert text.startswith(f"error: got {first}") and text.count("\n") == 1 and "; cure: " in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("inside", "name"), [(".", "1.jfif"), ("Zoë", "1.jfif"), (".", "1.HEIC")])
def test_a_folder_of_pictures_is_told_of_prepare(inside, name, tmp_path, monkeypatch, capsys):
    (tmp_path / "faces" / inside).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "faces" / inside / name, format="JPEG")
    code, text = ends(compare, [f"data.path={tmp_path / 'faces'}"], monkeypatch, capsys)
    assert code == 2 and "a folder of pictures" in text and "experiments.prepare source.root=" in text


@pytest.mark.parametrize(
    "value",
    ["/données/é", "/a,b", "/it's", "/x [1]", "/(y)/{z}", 'say "so"/', "/漢字", "a=b/c", "a,b", "[a,b]", "2024", "1e3"],
)
def test_a_path_arrives_as_it_was_typed(value):
    for word in (f"data.path={value}", f"name={value}", f"runs_dir={value}"):
        found = OverridesParser.create().parse_overrides(for_hydra([word], "compare", CompareConfig))
        assert found[-1].value() == value


def test_each_part_of_a_list_or_a_multirun_arrives_as_it_was_typed():
    def read(word, multirun):
        return OverridesParser.create().parse_override(quoted(word, multirun))

    typed = ["Müller", "Zoë B", "O'Brien", "x y", "[1]"]
    assert read(f"remove=[{','.join(typed[:4])}]", False).value() == typed[:4]
    assert read(f"remove=[{','.join(typed[:3])}]", True).value() == typed[:3]
    swept = read('data.path=/é,/it\'s [1],"/a,b"', True)
    assert swept.is_sweep_override()
    assert [one.text for one in swept.value().list] == ["/é", "/it's [1]", "/a,b"]


def test_a_path_alone_chooses_the_data():
    for command, schema in (("compare", CompareConfig), ("train_facenet", TrainFacenetConfig)):
        assert "data=embedding_set" in for_hydra(["data.path=x"], command, schema)
        assert for_hydra(["data=mine", "data.path=x"], command, schema) == ["data=mine", "data.path=x"]


@pytest.mark.parametrize(
    "word", ["seed=3", "n_identities=[1,2]", "loss=null", "out='a b'", "--cfg", "lr=1e-3", "a=x:y"]
)
def test_what_hydra_reads_stays_as_it_is(word):
    assert quoted(word, False) == word and quoted(word, True) == word


def test_values_of_a_multirun_stay_a_sweep():
    assert quoted("loss.margin=0.3,0.5", True) == "loss.margin=0.3,0.5"


def test_keys_of_groups_are_known():
    assert {"seeds", "split.held_out", "data.path", "loss.scale", "suite"} <= set(known_keys(CompareConfig, "compare"))

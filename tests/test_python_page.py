# SPDX-License-Identifier: MIT
"""docs/python.md, executed block after block as a reader would."""

import numpy as np

from lightning_modules.estimator import SCENARIOS
from lightning_modules.identifier import Identifier
from tests.markdown import blocks
from tests.test_docs_paths import ROOT

PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")


def test_the_blocks_run_and_give_what_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for language, block in blocks(PAGE):
        assert language == "python"
        exec(compile(block, "docs/python.md", "exec"), names)
    classifier, answers = names["classifier"], names["answers"]
    assert classifier.score(names["probes"], names["truth"]) > 0.95 and {"Ada", "Bob", "Cem"} <= set(
        classifier.classes_
    )
    assert names["names"].shape == (200, 5) and names["scores"].shape == (200, 40)
    assert 0.02 < np.mean(names["named"] != "unknown") < 0.12
    assert np.mean(answers.index == names["splits"].test.labels) > 0.95
    assert Identifier.load("my_identifier").identities == names["identifier"].identities
    said = capsys.readouterr().out
    shown = [line for line in said.splitlines() if line.startswith(("EmbeddingSet(", "Partition(", "Identifier("))]
    assert len(shown) == 3 and all(len(line) < 500 for line in shown) and "'AdaFace', 'ArcFace'" in said


def test_the_long_block_is_about_25_lines_and_the_table_names_the_scenarios():
    lines = [line for _, block in blocks(PAGE) if "pl.Trainer" in block for line in block.splitlines()]
    assert sum(bool(line.strip()) and not line.startswith(("import ", "from ")) for line in lines) <= 25
    table = PAGE.partition("| `scenario=` |")[2].partition("\n\n")[0]
    assert all(f"`{name}`" in table for name in SCENARIOS)

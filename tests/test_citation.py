# SPDX-License-Identifier: MIT
"""CITATION.cff: what the format (cff-version 1.2.0) demands, and the sources that the documentation names."""

import configparser
from pathlib import Path

from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
CITATION = OmegaConf.to_container(OmegaConf.load(ROOT / "CITATION.cff"))


def test_the_required_keys_are_there_and_each_reference_can_be_found():
    assert {"cff-version", "message", "title", "authors"} <= set(CITATION)
    for one in [CITATION["preferred-citation"], *CITATION["references"]]:
        assert {"type", "title", "authors", "year"} <= set(one) and ("journal" in one) != ("collection-title" in one)
        assert all(author["family-names"] for author in one["authors"])
        assert "doi" not in one or one["doi"].startswith("10.")


def test_version_and_licence_are_those_of_the_package():
    package = configparser.ConfigParser(interpolation=None)
    package.read(ROOT / "setup.cfg", encoding="utf-8")
    for key in ("version", "license"):
        assert CITATION[key] == package["metadata"][key]


def test_the_sources_that_the_documentation_follows_are_cited():
    main = CITATION["preferred-citation"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert main["title"] in readme and main["authors"][0]["family-names"] in readme
    cited = {author["family-names"] for one in CITATION["references"] for author in one["authors"]}
    assert {"Nasiri", "Schroff", "Deng", "Wu"} <= cited

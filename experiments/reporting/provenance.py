# SPDX-License-Identifier: MIT
"""The origin of a report: configuration, facts of the manifest, and links to the files of the run folder."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from experiments.reporting.document import Code, Links, Section, Table, TableCell, pictures

_FILES = ("results.csv", "config.yaml", "manifest.json", "log.txt", "report.md")
_MOST_FACTS = 200
_LONG = 12  # entries; longer lists are folded


def facts(content: Mapping) -> dict[str, str]:
    """The scalar facts of nested mappings, by names such as "versions.torch"; short lists are joined, others counted.

    >>> facts({"a": {"b": 1}, "c": [1, 2], "d": [[1]]}) == {"a.b": "1", "c": "1, 2", "d": "1 entries"}
    True
    """
    found = {}
    for name, value in pd.json_normalize(dict(content)).astype(object).squeeze(axis="index").items():
        if isinstance(value, list | tuple):
            plain = len(value) <= _LONG and not any(isinstance(part, Mapping | list | tuple) for part in value)
            value = ", ".join(map(str, value)) if plain else f"{len(value)} entries"
        if value is not None and value != "":
            found[name] = str(value)
    return found


def _facts_table(caption: str, found: Mapping[str, str], folded: bool = False) -> Table:
    rows = tuple((TableCell(name), TableCell(value)) for name, value in list(found.items())[:_MOST_FACTS])
    note = f"The first {_MOST_FACTS} of {len(found)}; the rest is in manifest.json." if len(found) > _MOST_FACTS else ""
    return Table(caption, ("Fact", "Value"), rows, note, folded=folded)


def provenance_section(folder: Path, content: Mapping, config: str, sections: list[Section]) -> Section:
    """The last section of a report, from the manifest (or any facts), the text of config.yaml and other sections."""
    # Short facts are open; a long list (files, partitions, sub-networks) gets a folded table.
    long = {key: part for key, part in content.items() if isinstance(part, Mapping) and len(part) > _LONG}
    short = facts({key: part for key, part in content.items() if key not in long})
    blocks: list[Table | Code | Links] = [_facts_table("Provenance", short)] if short else []
    for key, part in long.items():
        blocks.append(_facts_table(f"Provenance: {key}, {len(part)} entries", facts(part), folded=True))
    if config:
        blocks.append(Code("Configuration (config.yaml)", config))
    files = [name for name in _FILES if (folder / name).is_file() or name == "report.md"]
    files += sorted(f"details/{path.name}" for path in (folder / "details").glob("*.csv"))
    files += [f"figures/{picture.name}.png" for picture in pictures(sections)]
    blocks.append(Links("Files of the run folder", tuple(files)))
    no_manifest = "The run folder has no manifest.json: versions and commit are unknown."
    no_config = "The run folder has no config.yaml."
    notes = filter(None, ("" if content else no_manifest, "" if config else no_config))
    return Section("Configuration and provenance", tuple(blocks), tuple(notes))

# SPDX-License-Identifier: MIT
"""Where a report comes from: configuration, facts of the manifest, and links to the files of the run folder."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from experiments.reporting.document import Cell, Code, Links, Section, Table

_FILES = ("results.csv", "config.yaml", "manifest.json", "log.txt", "report.md")
_MOST_FACTS = 200
_LONG = 12  # entries at most of a list that is shown open


def facts(content: Mapping, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The scalar facts of nested mappings, as ("versions.torch", "2.15.0").

    Args:
        content: mappings, lists and scalars, such as a manifest. Short lists of scalars are joined, others counted.

    >>> list(facts({"a": {"b": 1}, "c": [1, 2], "d": [[1]]}))
    [('a.b', '1'), ('c', '1, 2'), ('d', '1 entries')]
    """
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from facts(value, f"{name}.")
        elif isinstance(value, list | tuple):
            plain = len(value) <= _LONG and not any(isinstance(part, Mapping | list | tuple) for part in value)
            yield name, ", ".join(map(str, value)) if plain else f"{len(value)} entries"
        elif value is not None and value != "":
            yield name, str(value)


def _facts_table(caption: str, rows: list[tuple[str, str]], folded: bool = False) -> Table:
    shown = tuple((Cell(name), Cell(value)) for name, value in rows[:_MOST_FACTS])
    note = f"The first {_MOST_FACTS} of {len(rows)}; the rest is in manifest.json." if len(rows) > _MOST_FACTS else ""
    return Table(caption, ("Fact", "Value"), shown, note, folded=folded)


def provenance_section(folder: Path, content: Mapping, config: str, pictures: list[str]) -> Section:
    """The last section of a report.

    Args:
        content: the manifest, or any facts.
        config: the text of config.yaml, "" for none.
    """
    # What a reader asks first stays open: long lists (files, partitions, sub-networks) get a folded table each.
    long = {key: part for key, part in content.items() if isinstance(part, Mapping) and len(part) > _LONG}
    rows = list(facts({key: part for key, part in content.items() if key not in long}))
    notes = []
    if not content:
        notes.append("The run folder has no manifest.json: nothing is known of versions and commit.")
    blocks: list[Table | Code | Links] = []
    if rows:
        blocks.append(_facts_table("Provenance", rows))
    for key, part in long.items():
        blocks.append(_facts_table(f"Provenance: {key}, {len(part)} entries", list(facts(part)), folded=True))
    if config:
        blocks.append(Code("Configuration (config.yaml)", config))
    else:
        notes.append("The run folder has no config.yaml.")
    files = [name for name in _FILES if (folder / name).is_file() or name == "report.md"]
    files += sorted(f"details/{path.name}" for path in (folder / "details").glob("*.csv"))
    files += [f"figures/{name}.png" for name in pictures]
    blocks.append(Links("Files of the run folder", tuple(files)))
    return Section("Configuration and provenance", tuple(blocks), tuple(notes))

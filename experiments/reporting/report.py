# SPDX-License-Identifier: MIT
"""report.md and report.html of a run folder: of a comparison, or of any command that has tables and figures to show.

A new table or figure of a comparison is a function that takes one table of the run and returns what to show, and one
line in `SECTIONS`.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from datamodules.errors import InputError
from datamodules.files import atomic_folder
from experiments.reporting import (
    clusters,
    convergence,
    error_analysis,
    figures,
    methods,
    number_formats,
    sweeps,
    tables,
)
from experiments.reporting.canvas import drawn
from experiments.reporting.document import Block, Document, Picture, Section, Table, frame_table
from experiments.reporting.methods import is_synthetic, label_methods, titles_of
from experiments.reporting.provenance import facts, provenance_section
from experiments.reporting.render import save
from experiments.reporting.runs import Run, config_text, merge_runs, merged_from, read_run
from experiments.reporting.verdict import verdict

VALIDATED = (
    "Results on validation images, also where a table says test: they serve to choose settings. Report what was chosen "
    "on test images, with evaluate=test."
)
_PNG_START = b"\x89PNG\r\n\x1a\n"

# The name of a table (results, or a file of details), and a function of that table.
Part = tuple[str, Callable[[pd.DataFrame], Block | Iterable[Block] | None]]

# The sections of a comparison's report. A part whose table the run lacks, and a section without parts, are left out.
SECTIONS: dict[str, tuple[Part, ...]] = {
    "Sweep": (("results", sweeps.sweep_blocks),),
    "Cluster accuracy": (("routing", tables.cluster_accuracy_table),),
    "Precision, recall and F1": (("results", tables.both_score_tables), ("results", figures.score_pictures)),
    "Paired differences": tuple(
        ("results", partial(make, reference=reference))
        for make in (figures.forest_picture, tables.differences_table) for reference in ("ism", "no_distribution")
    ),
    "Time and memory": (("results", tables.times_table), ("results", figures.seconds_picture)),
    "Errors": (("errors", error_analysis.errors_table), ("cmc", error_analysis.cmc_pictures)),
    "Unknown persons": (("open_set", error_analysis.rates_table), ("det", error_analysis.det_pictures)),
    "Convergence": (("history", convergence.convergence_table), ("history", convergence.convergence_pictures)),
    "Clusters": (
        ("clusters", clusters.sizes_picture), ("clusters", clusters.similarity_picture),
        ("clusters", clusters.partitions_table), ("clusters", clusters.worst_table),
        ("map", clusters.map_pictures), ("history", clusters.slowest_table),
    ),
    "Hardest identities": (("identities", error_analysis.hardest_table),),
    "Not run": (("skipped", tables.skipped_table),),
}  # fmt: skip


def write_report(run_folder: Path | str, title: str | None = None) -> None:
    """Writes the report of a comparison into its run folder: report.md, report.html and figures/*.png.

    The same folder gives the same report, byte for byte. `title` names the run in the heading, by default its folder.

    Raises:
        InputError: a file of the folder cannot be used; nothing is written then.
    """
    folder = Path(run_folder)
    run = read_run(folder)
    with titles_of(run.details):
        save(_comparison(folder, run, title or folder.resolve().name), folder)


def merge_reports(run_folders: list[Path], out: Path) -> int:
    """Merges several runs into a new run folder, writes its report, and returns how many repeated rows were dropped.

    An `out` that was merged from the same folders is replaced.

    Raises:
        InputError: see `runs.merge_runs`; `out` is not left behind then.
    """
    if merged_from(out) == {str(folder.resolve()) for folder in run_folders}:
        shutil.rmtree(out)
    with atomic_folder(out) as temporary:
        dropped = merge_runs(run_folders, temporary)
        write_report(temporary, title=out.name)
    return dropped


def _comparison(folder: Path, run: Run, name: str) -> Document:
    frame = label_methods(run.results)
    finding, sections = verdict(frame), comparison_sections(frame, run)
    generated, validated = frame["dataset"].map(is_synthetic), frame["dataset"].str.endswith(methods.VALIDATION)
    unfinished = convergence.unfinished_remark(run.details["history"]) if "history" in run.details else ""
    about = [
        ", ".join(dict.fromkeys(frame["data"])),
        "N = " + ", ".join(map(number_formats.whole, sorted(frame["n_identities"].unique()))),
        f"{frame['scenario'].nunique()} scenarios",
        number_formats.seeds_phrase(list(frame.groupby(["data", "n_identities", "method"])["seed"].nunique())),
        *_commit(run.manifest),
    ]
    if frame["run"].nunique() > 1:
        dropped = run.manifest.get("repeated_rows_dropped") or 0
        about.append(f"{frame['run'].nunique()} runs merged, {dropped} repeated rows dropped")
    return Document(
        title=f"ClusterFace comparison{' on validation images' * bool(validated.all())}: {name}",
        verdict=finding.sentence,
        sections=(*sections, provenance_section(folder, run.manifest, run.config, sections)),
        facts=tuple(about),
        remarks=(*[VALIDATED] * bool(validated.any()), *finding.remarks, *filter(None, [unfinished])),
        tiles=finding.tiles,
        synthetic="all" if generated.all() else "some" if generated.any() else "",
    )


def comparison_sections(frame: pd.DataFrame, run: Run) -> list[Section]:
    """The sections of `SECTIONS` that have something to show, from labelled rows of results.csv and a run's details."""
    # Rows of results.csv also say how they were routed, each by its own router only.
    sources = {"results": frame, "routing": frame, **run.details}
    paired = "Every scenario sees the same images under the same seed, so differences are taken seed by seed."
    notes = {"Time and memory": _machine(run.manifest), "Unknown persons": (error_analysis.UNKNOWN_NOTE,)}
    notes["Paired differences"] = (paired,)
    sections = []
    for title, parts in SECTIONS.items():
        blocks: list[Block] = []
        for source, make in parts:
            made = make(sources[source]) if source in sources else None
            blocks += [made] if isinstance(made, Block) else made or []
            if isinstance(made, Table):  # those that come in pairs decide themselves which one is open
                blocks[-1] = replace(made, folded=len(made.rows) > tables.MOST_OPEN_ROWS)
        if blocks:
            sections.append(Section(title, tuple(blocks), notes.get(title, ())))
    return sections


def _commit(manifest: Mapping) -> list[str]:
    """The short git commit in the manifest, with its remark on the state of the tree."""
    values = (value for key, value in facts(manifest).items() if "commit" in key.lower())
    found = filter(None, (re.match(r"([0-9a-f]{7,64})\b(.*)", value) for value in values))
    return [f"commit {one[1][:10]}{one[2]}" for one in found][:1]


def _machine(manifest: Mapping) -> tuple[str, ...]:
    """One sentence about the machine, if the manifest names it."""
    known = {name.rpartition(".")[2]: value for name, value in facts(manifest).items()}
    words = {"gpu": "GPU", "cpu_threads": "CPU threads", "platform": "system"}
    said = [f"{word} {known[key]}" for key, word in words.items() if key in known]
    return (f"Measured with: {', '.join(said)}.",) if said else ()


def write_simple_report(
    run_folder: Path | str, title: str, verdict: str, tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Path | Figure], provenance: Mapping,
) -> None:  # fmt: skip
    """Writes a report that looks like the comparison's, from ready tables and figures.

    Args:
        tables: by caption; numbers are formatted by their column's name (`number_formats.any_number`).
        figures: by caption, from which their file names in figures/ are made; paths are those of PNG files.

    Raises:
        InputError: no such folder, or a figure's path is not a PNG file; nothing is written then.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}", "the run folder", "make it first")
    pictures: list[Picture] = []
    for caption, figure in figures.items():
        name = _file_name(caption, {picture.name for picture in pictures})
        png, svg = drawn(figure) if isinstance(figure, Figure) else (_bytes(figure), "")
        if not png.startswith(_PNG_START) or len(png) < 45:
            raise InputError(f"figure {figure}, which is no PNG file", "a PNG file", "draw the figure again")
        pictures.append(Picture(name, caption, caption, png, svg))
    blocks = [frame_table(caption, frame) for caption, frame in tables.items()]
    sections = [Section("Results", tuple(blocks))] if blocks else []
    sections += [Section("Figures", tuple(pictures))] if pictures else []
    sections.append(provenance_section(folder, provenance, config_text(folder), sections))
    save(Document(title, verdict, tuple(sections)), folder)


def _bytes(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def _file_name(caption: str, taken: set[str]) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", caption.lower()).strip("_")[:40] or "figure"
    candidates = (name if i == 1 else f"{name}_{i}" for i in range(1, len(taken) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)

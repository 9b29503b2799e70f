# SPDX-License-Identifier: MIT
"""report.md and report.html of a run folder: of a comparison, or of any command that has tables and figures to show."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from datamodules.errors import InputError
from datamodules.files import atomic_folder
from experiments.reporting import map_figure, tables, training_figures, training_tables, wording
from experiments.reporting.canvas import to_png
from experiments.reporting.document import Block, Document, Picture, Section, Table, frame_table
from experiments.reporting.figures import result_pictures
from experiments.reporting.methods import MOST_TOLD_APART, is_synthetic, label_methods, titles_of
from experiments.reporting.open_set_figures import error_sections
from experiments.reporting.provenance import facts, provenance_section
from experiments.reporting.render import save
from experiments.reporting.runs import Run, merge_runs, read_run
from experiments.reporting.sweeps import sweep_section
from experiments.reporting.verdict import verdict

_MOST_OPEN_ROWS = 40
_PNG_START = b"\x89PNG\r\n\x1a\n"


def write_report(run_folder: Path | str, title: str | None = None) -> None:
    """Writes the report of a comparison into its run folder: report.md, report.html and figures/*.png.

    The same folder gives the same report, byte for byte; nothing is trained.

    Args:
        run_folder: holds results.csv, and config.yaml, manifest.json, details/*.csv where the run has them.
        title: name of the run in the heading; the folder's name unless given.

    Raises:
        InputError: a file of the folder cannot be used; nothing is written then.
    """
    folder = Path(run_folder)
    run = read_run(folder)
    with titles_of(run.details):
        save(_comparison(folder, run, title or folder.resolve().name), folder)


def merge_reports(run_folders: list[Path], out: Path) -> int:
    """Merges several runs into a new run folder and writes its report.

    Args:
        run_folders: see `runs.merge_runs`.
        out: must not exist yet, or be empty.

    Returns:
        How many repeated rows were dropped.

    Raises:
        InputError: see `runs.merge_runs`; `out` is not left behind then.
    """
    with atomic_folder(out) as temporary:
        dropped = merge_runs(run_folders, temporary)
        write_report(temporary, title=out.name)
    return dropped


def _comparison(folder: Path, run: Run, name: str) -> Document:
    frame = label_methods(run.results)
    finding = verdict(frame)
    generated = frame["dataset"].map(is_synthetic)
    sweep = sweep_section(frame)
    results = [*([sweep] if sweep else []), *_result_sections(frame, run)]
    sections = [section for section in (*results, *_detail_sections(run.details)) if section.blocks]
    names = [block.name for section in sections for block in section.blocks if isinstance(block, Picture)]
    sections.append(provenance_section(folder, run.manifest, run.config, names))
    sizes = sorted(frame["n_identities"].unique())
    unfinished = training_tables.unfinished_remark(run.details["history"]) if "history" in run.details else ""
    dropped = run.manifest.get("repeated_rows_dropped")
    about = [
        ", ".join(dict.fromkeys(frame["data"])),
        "N = " + ", ".join(map(wording.whole, sizes)),
        f"{frame['scenario'].nunique()} scenarios",
        wording.seeds_phrase(list(frame.groupby(["data", "n_identities", "method"])["seed"].nunique())),
        *_commit(run.manifest),
    ]
    if frame["run"].nunique() > 1:
        about.append(f"{frame['run'].nunique()} runs merged, {dropped or 0} repeated rows dropped")
    return Document(
        title=f"ClusterFace comparison: {name}",
        verdict=finding.sentence,
        sections=tuple(sections),
        facts=tuple(about),
        remarks=(*finding.remarks, *([unfinished] if unfinished else [])),
        tiles=finding.tiles,
        synthetic="all" if generated.all() else "some" if generated.any() else "",
    )


def _commit(manifest: Mapping) -> list[str]:
    """The git commit that the manifest names anywhere, short, with what it says of the state of the tree."""
    for key, value in facts(manifest):
        if "commit" in key.lower() and (found := re.match(r"([0-9a-f]{7,64})\b(.*)", value)):
            return [f"commit {found[1][:10]}{found[2]}"]
    return []


def _machine(manifest: Mapping) -> tuple[str, ...]:
    """One sentence about what the seconds were measured on, where the manifest says it."""
    known = {name.rpartition(".")[2]: value for name, value in facts(manifest)}
    words = {"gpu": "GPU", "cpu_threads": "CPU threads", "platform": "system"}
    said = [f"{word} {known[key]}" for key, word in words.items() if key in known]
    return (f"Measured with: {', '.join(said)}.",) if said else ()


def _result_sections(frame: pd.DataFrame, run: Run) -> list[Section]:
    pictures = result_pictures(frame)
    scores, compact, times = tables.scores_table(frame), tables.paper_layout_table(frame), tables.times_table(frame)
    # Over many data sets and N the paper's layout is the one to read, where its columns fit; else that with the spread.
    long = len(scores.rows) > _MOST_OPEN_ROWS and frame["method"].nunique() <= MOST_TOLD_APART
    first, second = (compact, scores) if long else (scores, compact)
    routing = tables.cluster_accuracy_table(frame, run.details.get("routing"))
    differences = [tables.differences_table(frame, reference) for reference in ("ism", "no_distribution")]
    return [
        Section("Precision, recall and F1", (first, *pictures["scores"], replace(second, folded=True))),
        Section(
            "Paired differences",
            (*pictures["differences"], *_present(*map(_fold_if_long, differences))),
            ("Every scenario sees the same images under the same seed, so differences are taken seed by seed.",),
        ),
        Section("Cluster accuracy", _present(routing)),
        Section("Time and memory", _present(_fold_if_long(times), *pictures["seconds"]), _machine(run.manifest)),
    ]


def _fold_if_long(table: Table | None) -> Table | None:
    return table and replace(table, folded=len(table.rows) > _MOST_OPEN_ROWS)


def _detail_sections(details: Mapping[str, pd.DataFrame]) -> list[Section]:
    sections = error_sections(details)
    blocks: list[Block | None] = []
    if "history" in details:
        history = details["history"]
        pictures = training_figures.convergence_pictures(history)
        sections.append(Section("Convergence", (training_tables.convergence_table(history), *pictures)))
    if "clusters" in details:
        clusters = details["clusters"]
        blocks += [training_figures.sizes_picture(clusters), training_figures.map_picture(clusters)]
        blocks += [map_figure.partitions_table(clusters), training_tables.worst_table(clusters)]
    if "map" in details:
        blocks += map_figure.map_pictures(details["map"])
    if "history" in details:
        blocks.append(training_tables.slowest_table(history))
    sections.append(Section("Clusters", _present(*blocks)))
    if "identities" in details:
        sections.append(Section("Hardest identities", (training_tables.hardest_table(details["identities"]),)))
    if "skipped" in details:
        sections.append(Section("Not run", (training_tables.skipped_table(details["skipped"]),)))
    return sections


def _present(*blocks: Block | None) -> tuple[Block, ...]:
    return tuple(block for block in blocks if block is not None)


def write_simple_report(
    run_folder: Path | str,
    title: str,
    verdict: str,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Path | Figure],
    provenance: Mapping,
    synthetic: bool = False,
) -> None:
    """Writes a report that looks like the comparison's, from ready tables and figures.

    Args:
        run_folder: an existing folder; config.yaml, if it has one, is shown.
        tables: from caption to table; numbers are formatted by their column's name (`wording.any_number`).
        figures: from caption to a figure of matplotlib or the path of a PNG file; copied to figures/ under a name made
            of the caption.
        synthetic: whether to label the data synthetic.

    Raises:
        InputError: no such folder, or a figure's path is not a PNG file; nothing is written then.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise InputError(f"no folder {folder}", "the run folder", "make it first")
    pictures: list[Picture] = []
    for caption, figure in figures.items():
        name = _file_name(caption, {picture.name for picture in pictures})
        png = to_png(figure) if isinstance(figure, Figure) else _read_png(Path(figure))
        pictures.append(Picture(name, caption, caption, png))
    blocks = [frame_table(caption, frame) for caption, frame in tables.items()]
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    sections = [
        *([Section("Results", tuple(blocks))] if blocks else []),
        *([Section("Figures", tuple(pictures))] if pictures else []),
        provenance_section(folder, provenance, text, [picture.name for picture in pictures]),
    ]
    save(Document(title, verdict, tuple(sections), synthetic="all" if synthetic else ""), folder)


def _file_name(caption: str, taken: set[str]) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", caption.lower()).strip("_")[:40] or "figure"
    candidates = (name if i == 1 else f"{name}_{i}" for i in range(1, len(taken) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)


def _read_png(path: Path) -> bytes:
    content = path.read_bytes() if path.is_file() else b""
    if not content.startswith(_PNG_START) or len(content) < 45:
        raise InputError(f"figure {path}, which is no PNG file", "a PNG file", "draw the figure again")
    return content

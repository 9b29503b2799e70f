# SPDX-License-Identifier: MIT
"""Makes docs/troubleshooting.md of the errors in the code: `python -m tests.troubleshooting`, part of `make docs`.

The messages come from the calls of InputError. What is said
beside them is in `SECTIONS`: an introduction to the errors of a part of the code, and remarks on single messages, each
found by words of the message. A remark whose words no message has any more is an error.
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/troubleshooting.md"
ERRORS = ("InputError", "DiskError", "needed_package")
HEAD = """\
# Troubleshooting

Made of the errors in the code by `make docs`; what is changed here by hand is lost.

A command that cannot use its input prints one line on standard error, `error: got ...; expected ...; cure: ...`, writes
nothing, and ends with exit code 2. This page has every such line, in the order in which one meets them: search it for
the words after `got`. Capitals and `...` stand for a name, a number or a list that the error itself states. Where there
is something to add, it stands before the table.
"""
TAIL = """\
## A traceback

A traceback is a defect of this project, not of your input. Finished work is kept. Please report it with the command,
the traceback, and `log.txt` and `config.yaml` of the run folder.
"""


@dataclass(frozen=True)
class Section:
    """Errors of some parts of the code.

    Attributes:
        parts: beginnings of paths of files.
        remarks: by words of a message, what is to be added.
        said: by words that stand in the code, but are no error of input, what they mean.
    """

    title: str
    parts: tuple[str, ...]
    about: str = ""
    remarks: tuple[tuple[str, str], ...] = ()
    said: tuple[tuple[str, str], ...] = ()


SECTIONS = (
    Section(
        "Writing the command",
        ("experiments/command_line/", "datamodules/errors.py"),
        "`python -m experiments.compare --help` shows the main keys of a command, "
        "[configuration.md](configuration.md) all of them, `python -m experiments.list loss` the choices of a "
        "group. zsh reads brackets as patterns and "
        "says `no matches found`: quote the word, `'n_identities=[1000,2000]'`. A path is taken as it is typed, with "
        "blanks, commas, accents or brackets; the shell alone needs quotes around it.",
        (
            ("a key of this command", "The nearest key is named if there is one that is like it."),
            (
                "which Hydra cannot read",
                "Rows of `scenarios=` with `=` need both kinds of quotes, because the shell "
                "removes the outer ones: `'scenarios=[ism,\"loss=cosface\"]'`.",
            ),
            ("what Lightning's Trainer takes", "The reason in brackets is Lightning's own."),
        ),
    ),
    Section(
        "The data",
        ("datamodules/embedding_set.py", "datamodules/files.py", "datamodules/splits.py", "datamodules/synthetic.py"),
        "An EmbeddingSet is a folder that `experiments.prepare` or `EmbeddingSet.write` makes.",
        (
            ("a folder of pictures; expected an EmbeddingSet", "[images.md](images.md) shows the way from pictures."),
            ("one per row", "Labels and file names are as many as embeddings."),
        ),
        (
            (
                "room on the disk",
                "A full disk, also one that becomes full during the run: make room and repeat the "
                "command, what is finished is kept.",
            ),
        ),
    ),
    Section(
        "Pictures: prepare",
        (
            "datamodules/sources/",
            "datamodules/images.py",
            "datamodules/alignment.py",
            "datamodules/extractors/",
            "datamodules/extraction/",
            "experiments/extraction/",
        ),
        "One sub-folder per person with its pictures, or train, val and test with those inside. A single picture that "
        "cannot be used is no error: `rejected.csv` says why.",
        (("without images in sub-folders", "Pictures that lie directly in the folder belong to nobody."),),
    ),
    Section("Partitioning", ("datamodules/partitioners/",)),
    Section(
        "Comparing scenarios",
        (
            "experiments/comparison/",
            "lightning_modules/evaluation.py",
            "lightning_modules/metrics/",
            "lightning_modules/neighbours.py",
            "lightning_modules/open_set.py",
            "lightning_modules/open",
        ),
        remarks=(
            ("fpir = ", "At least 1 / fpir probes of unknown people are needed; `split.held_out` gives them."),
            ("one m per N", "The paper compares one m per N; `-m` makes a run of each m."),
        ),
    ),
    Section(
        "The run folder",
        ("experiments/runs/",),
        "A run that was begun keeps its settings. Scenarios, seeds and sizes may be added to it, and launcher and "
        "logger changed; a repeated command continues it.",
        (("was begun with", "Another name makes another run; sub-networks are not trained again for another report."),),
        (("does not answer", "Weights & Biases cannot be reached: the run goes on, and `wandb sync` sends it later."),),
    ),
    Section(
        "Training",
        (
            "experiments/training/",
            "callbacks/",
            "lightning_modules/sharded_head.py",
            "lightning_modules/decisions/",
            "lightning_modules/routers/",
            "lightning_modules/scores.py",
            "datamodules/label_cluster_datamodule.py",
        ),
        "Memory and disk are estimated before training. A sub-network that fails stops only itself: the run ends with "
        "exit code 1 and a table.",
        (),
        (
            (
                "; expected a finite one; cure: ",
                "A training loss that is not a number stops one sub-network: a lower "
                "learning rate, a smaller scale or margin, or broken embeddings.",
            ),
            ("sub-networks failed; the same command tries only those again", "Exit code 1; the table names them."),
            (
                "from random rows that is too few",
                "A warning: few samples and few epochs give few steps, and heads from "
                "random rows learn little. It is the most frequent reason for scores far below KNN.",
            ),
        ),
    ),
    Section("The report", ("experiments/reporting/", "experiments/report.py")),
    Section(
        "Identifying, enrolling, exporting",
        (
            "lightning_modules/identifier.py",
            "lightning_modules/saved_parts.py",
            "lightning_modules/enrolment.py",
            "lightning_modules/indexes/",
            "lightning_modules/onnx_",
            "experiments/picture_identification/",
            "experiments/enrolment/",
        ),
        remarks=(("as the identifier was trained", "Probes and enrolled pictures go through the same extractor."),),
    ),
    Section(
        "Verification and FaceNet",
        (
            "experiments/facenet/",
            "experiments/verification/",
            "lightning_modules/embedding_networks.py",
            "lightning_modules/verification.py",
            "datamodules/identity_batches.py",
        ),
    ),
    Section("Clustering of images", ("experiments/image_clustering/",)),
    Section("Multi-label classification", ("experiments/label_clusters/", "datamodules/multilabel.py")),
    Section("Benchmarks", ("experiments/benchmarks/",)),
    Section("From Python", ("lightning_modules/estimator.py",)),
    Section(
        "Installing",
        ("Makefile",),
        "`setup.cfg` pins torch, torchvision and facenet-pytorch together; with other combinations the import of "
        "Lightning fails. `pip install -e . -c constraints.txt` installs the tested versions.",
        said=(("expected 3.11 or later; cure: make PYTHON=python3.11", "The Python that `make` finds is older."),),
    ),
)


def messages(file: Path) -> Iterator[tuple[str, str, str]]:
    """Got, expected and cure of every error that a file raises, in the order of the file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    for call in sorted(calls, key=lambda call: call.lineno):
        if call.func.id not in ERRORS:
            continue
        inside = [one for one in functions if one.lineno <= call.lineno <= one.end_lineno]
        names = assigned(inside[-1].body, call.lineno) if inside else {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                names.setdefault(node.targets[0].id, node.value)
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        got, expected, cure = (said(one, names) for one in given) if len(given) == 3 else ("...",) * 3
        got = f"no package {got}" if call.func.id == "needed_package" else got
        if re.search("[a-z]{2}", got + expected):
            yield got, expected, cure


def assigned(body: list[ast.stmt], line: int) -> dict[str, ast.expr]:
    """The values of names at a line of a function; those of branches that do not lead there count if nothing else."""
    found: dict[str, ast.expr] = {}
    for node in body:
        if node.lineno >= line:
            break
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=True))
                found |= {one.id: value for one, value in pairs if isinstance(one, ast.Name)}
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id in found:
            found[node.target.id] = ast.BinOp(found[node.target.id], ast.Add(), node.value)
        elif inner := [one for part in ("body", "handlers", "orelse") for one in getattr(node, part, [])]:
            held = assigned(inner, line)
            found = found | held if line <= node.end_lineno else held | found
    return found


def said(node: ast.expr, names: dict[str, ast.expr]) -> str:
    """The text of an expression; what is not in the code is the name of its variable in capitals, or `...`."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr():
            return "".join(said(part, names) for part in node.values).replace("......", "...")
        case ast.FormattedValue():
            return said(node.value, names)
        case ast.BinOp(op=ast.Add()):
            return said(node.left, names) + said(node.right, names)
        case ast.IfExp():
            return " / ".join(filter(None, dict.fromkeys([said(node.body, names), said(node.orelse, names)])))
        case ast.Name(id=name) if name in names:
            text = said(names[name], {key: value for key, value in names.items() if key != name})
            return name.upper() if text == "..." else text
        case ast.Call(func=ast.Name(id="nearest")):
            return f"{said(node.args[2], names)}; did you mean ...?"
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=str(name))):
            return name.strip("_").upper()
    return "..."


def page() -> str:
    """The page as Markdown.

    Raises:
        ValueError: errors of a file that no section has, or a remark on a message that is not there.
    """
    files = sorted(file for part in ("datamodules", "lightning_modules", "callbacks", "experiments")
                   for file in (ROOT / part).rglob("*.py"))  # fmt: skip
    texts = {file.relative_to(ROOT).as_posix(): file for file in [*files, ROOT / "Makefile"]}
    found: dict[str, list[tuple[str, str, str]]] = {section.title: [] for section in SECTIONS}
    for name, file in texts.items():
        if name.endswith(".py") and (raised := list(messages(file))):
            homes = [section.title for section in SECTIONS if name.startswith(section.parts)]
            if not homes:
                raise ValueError(f"{name} raises errors of input, and no section of tests/troubleshooting.py has it")
            found[homes[0]] += raised
    code = "\n".join(file.read_text(encoding="utf-8") for file in texts.values())
    written = [HEAD]
    for section in SECTIONS:
        written.append(f"## {section.title}\n")
        if section.about:
            written.append(textwrap.fill(section.about, 120, break_on_hyphens=False, break_long_words=False) + "\n")
        rows = sorted(set(found[section.title]), key=lambda row: (row[0].strip(". ").lower(), row))
        for words, remark in section.remarks:
            row = next((row for row in rows if words in "; expected ".join(row[:2])), None)
            if row is None:
                raise ValueError(f"no error with {words!r}: mend the remark in tests/troubleshooting.py")
            written.append(f"- {quoted(f'got {row[0]}')}: {remark}")
        for words, remark in section.said:
            if words not in code:
                raise ValueError(f"{words!r} is not in the code: mend the remark in tests/troubleshooting.py")
            written.append(f"- {quoted(f'... {words} ...')}: {remark}")
        if section.remarks or section.said:
            written.append("")
        if rows:
            written.append("| got | expected | cure |\n|---|---|---|")
            written += [f"| {quoted(got)} | {plain(expected)} | {plain(cure)} |" for got, expected, cure in rows]
            written.append("")
    return "\n".join([*written, TAIL])


def quoted(text: str) -> str:
    """A text as code in a table."""
    marks = "``" if "`" in text else "`"
    return f"{marks}{' '.join(text.split())}{marks}".replace("|", "\\|")


def plain(text: str) -> str:
    """A text with what Markdown would read as its own marks escaped."""
    return "".join(f"\\{letter}" if letter in "\\`*_<>[]|" else letter for letter in " ".join(text.split()))


if __name__ == "__main__":
    (Path(sys.argv[1]) if sys.argv[1:] else PAGE).write_text(page(), encoding="utf-8")

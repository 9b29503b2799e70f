# SPDX-License-Identifier: MIT
"""The figures of README's result table that take under ten minutes in all, computed again and compared.

`make results DATA=DIR`: DIR holds the EmbeddingSets omniglot, lfw_edgeface and han; a missing one is skipped, and said.
Exit code: 0 all within the tolerance, 1 some not, 2 no data.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from experiments.reporting.methods import label_methods
from experiments.reporting.runs import read_run
from experiments.reporting.statistics import paired_differences

ROOT = Path(__file__).resolve().parents[1]
UNTRAINED, TRAINED = 0.02, 0.1  # points: another processor adds in another order, and training carries that on
ROWS = {  # how a row of the table begins: its scenario, and the tolerance
    "ISM": ("ism", TRAINED),
    "KNN": ("knn", UNTRAINED),
    "k-means partition, nearest class": ("clustered_nearest", TRAINED),
    "the same from the linear discriminant": ("clustered_nearest_fast", TRAINED),
    "`clustered_fused`": ("clustered_fused", UNTRAINED),
    "the proposal minus ISM": ("difference", TRAINED),
}
RUNS = {  # in the order of the table's columns: data set, arguments, scenarios
    "omniglot": ("n_subnets=2 seeds=5", "ism,knn,clustered_nearest,clustered_nearest_fast,clustered_fused"),
    "lfw_edgeface": ("n_subnets=2 seeds=5", "knn,clustered_nearest_fast,clustered_fused"),
    "han": ("n_identities=[10000] n_subnets=auto seeds=5", "knn,clustered_fused"),
}


def stated(readme: str) -> dict[tuple[str, str], list[float]]:
    """The numbers of each cell by data set and scenario: mean and deviation, or mean and both ends of the interval."""
    found = {}
    for label, *cells in (line.strip("| ").split(" | ") for line in readme.splitlines() if line.startswith("| ")):
        for scenario in (scenario for start, (scenario, _) in ROWS.items() if label.startswith(start)):
            for data, cell in zip(RUNS, cells, strict=True):
                numbers = re.findall(r"[+-]?\d+\.\d+", cell.replace("−", "-"))
                found[data, scenario] = [float(number) for number in numbers]
    return found


def computed(folder: Path) -> dict[str, list[float]]:
    """The same numbers of a finished run, by scenario."""
    frame = label_methods(read_run(folder).results)
    found = {name: [rows.mean(), rows.std()] for name, rows in frame.groupby("scenario")["f1"]}
    if "ism" in found:
        table = paired_differences(frame, "ism")
        row = table[(table["scenario"] == "clustered_nearest") & (table["metric"] == "f1")]
        interval = row["interval"].item()
        found["difference"] = [interval.mean, interval.low, interval.high]
    return found


def compared(data: str, expected: dict[tuple[str, str], list[float]], got: dict[str, list[float]]) -> Iterator[str]:
    """One line per scenario that was run; it begins with "ok" or "DIFFERS"."""
    for scenario, tolerance in ROWS.values():
        if scenario in got:
            pairs = list(zip(expected[data, scenario], got[scenario], strict=True))
            good = all(abs(one - other) <= tolerance + 0.005 for one, other in pairs)  # the README rounds
            shown = ", ".join(f"{one:.2f} and {other:.2f}" for one, other in pairs)
            yield f"{'ok' if good else 'DIFFERS':8}{data:13} {scenario:23} stated and got: {shown} (within {tolerance})"


def main() -> int:
    """Runs, prints and returns the exit code."""
    folder, expected = Path(sys.argv[1] if len(sys.argv) > 1 else ""), stated((ROOT / "README.md").read_text("utf-8"))
    found: list[str] = []
    for data, (arguments, scenarios) in RUNS.items():
        if not (folder / data / "meta.json").is_file():
            print(f"skipped {data}: {folder / data} is no EmbeddingSet")
            continue
        with tempfile.TemporaryDirectory() as runs:
            command = [
                sys.executable, "-m", "experiments.compare", "data=embedding_set",
                f"data.path={(folder / data).resolve()}", "logger=none", f"runs_dir={runs}", "name=run",
                f"scenarios=[{scenarios}]", *arguments.split(),
            ]  # fmt: skip
            subprocess.run(command, cwd=ROOT, check=True)
            lines = list(compared(data, expected, computed(Path(runs) / "run")))
        print(*lines, sep="\n", flush=True)
        found += lines
    if not found:
        print("got no data; expected a folder with omniglot, lfw_edgeface or han; cure: make results DATA=FOLDER")
        return 2
    return int(any(line.startswith("DIFFERS") for line in found))


if __name__ == "__main__":
    sys.exit(main())

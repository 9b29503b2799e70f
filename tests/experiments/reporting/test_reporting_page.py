# SPDX-License-Identifier: MIT
import base64
import io
import json
import re
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from made_up_run import fake_details, fake_results, write_run
from matplotlib.figure import Figure
from PIL import Image

from datamodules.errors import InputError
from experiments.reporting.figures import score_pictures
from experiments.reporting.methods import label_methods
from experiments.reporting.report import merge_reports, write_report, write_simple_report

HOSTILE = '<script>alert("x")</script> | [y](javascript:z) $\\frac{ & `code` \'">'


@pytest.fixture(scope="module")
def page(full_run, read_page):
    return read_page(full_run / "report.html")


def images(page) -> dict[str, bytes]:
    start = "data:image/png;base64,"
    assert all(image["src"].startswith(start) for image in page.all("img"))
    return {image["alt"]: base64.b64decode(image["src"][len(start) :], validate=True) for image in page.all("img")}


def ink(png: bytes) -> float:
    """Share of pixels that are not white."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    return float((pixels.min(axis=2) < 250).mean())


def test_every_table_and_section_is_there(page):
    captions = " / ".join(page.tables)
    for name in (
        "Table 1. Cluster accuracy",
        "Table 2. Precision, recall and F1",
        "Table 2 in the paper's layout",
        "Table 3. Seconds per epoch",
        "Difference to ISM",
        "Difference to no distribution",
        "How far training had come",
        "slowest sub-networks",
        "clusters of lowest recall",
        "hardest identities",
        "Provenance",
    ):
        assert name in captions
    # Every row has as many cells as the head has headings, and says something in each.
    for caption, rows in page.tables.items():
        assert len({len(row) for row in rows}) == 1, caption
        assert all(cell for row in rows for cell in row), caption


def test_table_2_shows_the_means_of_results_csv(full_run, page):
    results = pd.read_csv(full_run / "results.csv")
    rows = next(rows for caption, rows in page.tables.items() if caption.startswith("Table 2."))
    values = {(row[0], row[1], row[2]): row[rows[0].index("F1")] for row in rows[1:]}
    assert len(values) == 7 * 3
    own = results.query("scenario == 'clustered_nearest' and n_identities == 5000")["f1"]
    assert values["Clustered + nearest class", "made_up", "5,000"] == f"{own.mean():.2f} ± {own.std():.2f}"


def test_figures_are_in_the_page_and_in_the_folder_and_not_blank(full_run, page):
    assert not images(page), "a figure is in the page twice"
    written = {path.name: path.read_bytes() for path in (full_run / "figures").glob("*.png")}
    assert {
        "figure6_precision.png",
        "figure7_recall.png",
        "figure8_f1.png",
        "differences_ism.png",
        "differences_no_distribution.png",
        "accuracy_seconds.png",
        "convergence_1.png",
        "learning_seconds_1.png",
        "cluster_sizes.png",
        "cluster_map.png",
    } <= set(written)
    assert len(page.all("svg")) == len(written) == len([one for one in page.all("figure") if one["class"] == "live"])
    for name, png in written.items():
        image = Image.open(io.BytesIO(png))
        assert image.width >= 1000 and image.height >= 400, name
        assert 0.01 < ink(png) < 0.5, name
    assert all(group["aria-label"] for group in page.all("div") if group.get("role") == "group")


def test_marks_tell_values_intervals_and_seeds_and_legends_can_be_clicked_away(full_run):
    text = (full_run / "report.html").read_text()
    results = pd.read_csv(full_run / "results.csv")
    rows = results.query("scenario == 'ism' and n_identities == 5000 and dataset == 'made_up'")["f1"]
    assert f"<title>ISM (random + max-max), N = 5,000: {rows.mean():.2f} ± {rows.std():.2f}</title>" in text
    assert re.search(r"<title>[^<]*minus ISM[^<]* \[-?\d[\d.e-]*, -?\d[\d.e-]*\]</title>", text), (
        "no interval of a difference"
    )
    for figure in re.findall(r'<figure class="live">(.*?)</figure>', text, re.S):
        names = set(re.findall(r'data-legend="([^"]*)"', figure))
        assert names <= set(re.findall(r'<g data-series="([^"]*)"', figure)), "an entry hides nothing"
        assert names == set(re.findall(r'data-entry="([^"]*)"', figure))
        assert figure.count("<circle") >= 1 or "partition" in figure
    width, height = (float(size) for size in re.search(r'<svg viewBox="0 0 ([\d.]+) ([\d.]+)">', text).groups())
    for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', figure):
        assert 0 < float(x) < width * 1.01 and 0 < float(y) < 20 * height


def test_a_single_n_tells_the_seed_of_each_dot():
    frame = label_methods(fake_results(["omniglot"], [1000], range(2), ("no_distribution", "ism")))
    picture = score_pictures(frame)[-1]
    f1 = frame[(frame["scenario"] == "ism") & (frame["seed"] == 1)]["f1"].item()
    assert f"<title>ISM (random + max-max), seed 1: {f1:.2f}</title>" in picture.svg
    again = score_pictures(frame)[-1]
    assert again.svg == picture.svg and "xmlns" not in picture.svg and "<!--" not in picture.svg


def test_the_page_needs_nothing_from_elsewhere(full_run, page):
    text = (full_run / "report.html").read_text()
    assert not re.search(r"https?://", text)
    assert not page.all("link") and not any("src" in script for script in page.all("script"))
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))


def test_links_lead_to_files_of_the_run_folder_or_into_the_page(full_run, page):
    targets = [link["href"] for link in page.all("a")]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    for target in targets:
        assert target[1:] in ids if target.startswith("#") else (full_run / unquote(target)).is_file(), target
    for name in ("results.csv", "config.yaml", "manifest.json", "log.txt", "report.md", "details/history.csv"):
        assert name in targets


def test_seeds_spread_provenance_and_synthetic_are_stated(page):
    for words in (
        "sample standard deviation over seeds",
        "2 to 3 seeds",
        "some data synthetic",
        "synthetic identities",
    ):
        assert words in page.text
    assert "commit 0123456789" in page.text and "versions.torch" in page.text and "max_epochs: 50" in page.text


def test_what_was_still_learning_and_on_what_it_was_measured_is_said(make_run, read_page):
    entries = {f"details/{i}.csv": "f" * 64 for i in range(20)}
    facts = {"provenance": {"gpu": "none", "cpu_threads": 2, "platform": "Linux"}, "files": entries}
    folder = make_run("told", sizes=(2000,), details=True, scenarios=("no_distribution", "ism"))
    (folder / "manifest.json").write_text(json.dumps(facts))
    write_report(folder)
    page = read_page(folder / "report.html")
    # In the made-up history the one network still gains two points in the last tenth; the others have come to rest.
    assert "Training had not converged: validation accuracy still rose" in page.text
    remark = page.text.partition("Training had not converged")[2].partition("\n")[0]
    assert "No distribution (+" in remark and "k-means" not in remark and "random" not in remark
    assert "Measured with: GPU none, CPU threads 2, system Linux." in page.text
    # Long lists are folded away, so that what is asked first is seen first.
    assert len(page.tables["Provenance"]) == 1 + 3 and len(page.tables["Provenance: files, 20 entries"]) == 1 + 20
    assert page.text.index("Provenance: files") > page.text.index("cpu_threads")


def test_markdown_says_the_same(full_run):
    text = (full_run / "report.md").read_text()
    for line in ("**Verdict.** In macro F1 on made_up", "## Paired differences", "![", "figures/figure8_f1.png"):
        assert line in text
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (full_run / unquote(link)).is_file(), link
    for table in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_drawn_again_it_is_the_same_byte_for_byte(make_run):
    folder = make_run(sizes=(1000,), seeds=(0,), scenarios=("ism", "clustered_nearest"))
    write_report(folder)
    files = [p for p in folder.rglob("*") if p.is_file()]
    before = {path: path.read_bytes() for path in files}
    write_report(folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_details_that_are_absent_leave_their_sections_out(make_run, read_page):
    folder = make_run(sizes=(1000,), seeds=(0,), scenarios=("ism", "clustered_nearest"))
    write_report(folder)
    text = read_page(folder / "report.html").text
    assert (
        "Convergence" not in text
        and "Hardest" not in text
        and "Unknown persons" not in text
        and "no distribution (points)" not in text
    )
    assert "single seed: no interval" in text
    assert not (folder / "figures" / "convergence_1.png").exists()


def test_names_are_text_whatever_they_hold(tmp_path, read_page):
    rows = fake_results(["d"], [1000], [0, 1], scenarios=("ism", "clustered_nearest"))
    rows = pd.concat([rows, rows[rows["scenario"] == "ism"].assign(scenario=HOSTILE)])
    rows["dataset"] = HOSTILE
    details = fake_details(HOSTILE, 1000, [0, 1], m=2, epochs=2)
    details["identities"]["identity"] = HOSTILE
    details["clusters"]["partitioner"] = HOSTILE
    folder = write_run(tmp_path / "run", rows, details, {HOSTILE: HOSTILE})
    (folder / "config.yaml").write_text(f"name: {HOSTILE}\n```\n</pre>")
    write_report(folder)
    page = read_page(folder / "report.html")
    assert len(page.all("script")) == 1  # our own
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not any("javascript:" in link["href"] for link in page.all("a"))
    assert page.text.count('<script>alert("x")</script>') >= 5  # shown, not run
    text = (folder / "report.md").read_text()
    outside_code = re.sub(r"^(`{3,})\n.*?^\1$", "", text, flags=re.M | re.S)
    assert "<script" not in outside_code and not re.search(r"(?<!\\)\]\(javascript", outside_code)


def test_odd_names_many_scenarios_and_extreme_numbers_are_drawn(tmp_path, read_page):
    odd = ("_", "数据集", "x" * 500, "a\nb", "-", "0", "$\\frac{$", "%s {0}")
    names = odd + tuple(f"baseline_{i}" for i in range(6)) + ("ism", "no_distribution")
    rows = fake_results(["d"], [10, 1_000_000], [0, 1], scenarios=names)
    rows.loc[rows["scenario"] == "baseline_0", ["precision", "recall", "f1"]] = 0.0
    rows.loc[rows["scenario"] == "baseline_1", ["epoch_seconds_serial", "train_seconds"]] = 0.0
    rows.loc[rows["scenario"] == "baseline_2", ["precision", "recall", "f1"]] = None
    for column in ("precision", "recall", "f1", "accuracy"):
        rows[column] = rows[column].clip(0, 100)
    folder = write_run(tmp_path / "run", rows)
    write_report(folder)
    text = read_page(folder / "report.html").text
    assert all(name in text for name in ("Baseline 5", "数据集", "X" + "x" * 499, "A b", "%s {0}"))
    assert ink((folder / "figures" / "figure8_f1.png").read_bytes()) > 0.01


def test_of_many_systems_the_table_is_open_and_f1_alone_is_drawn_the_best_first(make_run, read_page):
    names = ("no_distribution", "ism", "clustered_nearest", *(f"loss={i}" for i in range(45)))
    folder = make_run("many", sizes=(1000,), seeds=(0, 1), scenarios=names)
    write_report(folder)
    page = (folder / "report.html").read_text()
    opened = re.sub(r"<details>.*?</details>", "", page, flags=re.S)
    assert "Table 2. Precision" in opened and "paper's layout" not in re.sub("<[^>]*>", "", opened)
    names = {path.name for path in (folder / "figures").glob("figure*.png")}
    assert names == {"figure8_f1.png"} and "the best first" in page


def test_long_lists_are_folded_and_the_warning_names_a_few(make_run, read_page):
    folder = make_run("long", sizes=(1000,), seeds=(0, 1), scenarios=("ism", "clustered_nearest"))
    history = fake_details("made_up", 1000, [0], m=2, epochs=10)["history"]
    history = history[history["scenario_partition"] == "single"]  # still rising in its last epoch
    parts = [history.assign(scenario_partition=f"loss=kind_{i}") for i in range(45)]
    (folder / "details").mkdir()
    pd.concat(parts).to_csv(folder / "details" / "history.csv", index=False)
    write_report(folder)
    page = (folder / "report.html").read_text()
    opened = re.sub(r"<details>.*?</details>", "", page, flags=re.S)
    assert "How far training had come" in page and "How far training had come" not in opened
    assert " and 42 others (see the table of convergence)" in read_page(folder / "report.html").text


def test_nothing_is_written_for_a_run_that_cannot_be_read(make_run):
    folder = make_run()
    (folder / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="without the column"):
        write_report(folder)
    assert not {"report.md", "report.html", "figures"} & {path.name for path in folder.iterdir()}


def test_merged_report_keeps_speedups_within_runs(make_run, tmp_path, read_page):
    two = {"sizes": (1000,), "scenarios": ("no_distribution", "ism")}
    a, b = make_run("a", seeds=(0, 1), **two), make_run("b", seeds=(1, 2), **two)
    assert merge_reports([a, b], tmp_path / "merged") == 2
    page = read_page(tmp_path / "merged" / "report.html")
    assert "ClusterFace comparison: merged" in page.text and "2 runs merged, 2 repeated rows dropped" in page.text
    times = next(rows for caption, rows in page.tables.items() if caption.startswith("Table 3"))
    assert {row[times[0].index("Run")] for row in times[1:]} == {"a", "b"}
    scores = next(rows for caption, rows in page.tables.items() if caption.startswith("Table 2."))
    assert {row[scores[0].index("Seeds")] for row in scores[1:]} == {"3"}
    with pytest.raises(InputError, match="which exists"):
        merge_reports([a], tmp_path / "merged")


def test_simple_report(tmp_path, read_page):
    figure = Figure()
    figure.subplots().plot([1, 2, 3])
    figure.savefig(tmp_path / "given.png")
    table = pd.DataFrame(
        {"method": [HOSTILE, "b"], "f1": [91.234, np.nan], "train_seconds": [1234.5, 0.012345], "labels": [983, 274]}
    )
    write_simple_report(
        tmp_path,
        "Multi-label",
        "Clusters help.",
        {"Scores": table},
        {"A curve": figure, "a curve": tmp_path / "given.png"},
        {"git": {"commit": "abc"}},
    )
    page = read_page(tmp_path / "report.html")
    assert page.tables["Scores"] == [
        ["method", "f1", "train seconds", "labels"],
        [HOSTILE, "91.23", "1,230", "983"],
        ["b", "–", "0.0123", "274"],
    ]
    assert (
        len(images(page)) == 1 == len(page.all("svg")) and "Clusters help." in page.text and "git.commit" in page.text
    )
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"a_curve.png", "a_curve_2.png"}
    assert "## Results" in (tmp_path / "report.md").read_text()


def test_simple_report_refuses_what_is_no_png(tmp_path):
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(InputError, match="no PNG"):
        write_simple_report(tmp_path, "t", "v", {}, {"x": tmp_path / "x.png"}, {})
    with pytest.raises(InputError, match="no folder"):
        write_simple_report(tmp_path / "nowhere", "t", "v", {}, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]

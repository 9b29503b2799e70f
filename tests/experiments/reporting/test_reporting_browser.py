# SPDX-License-Identifier: MIT
"""The report as a reader sees it: in a real browser, on a desk and on a telephone."""

import io
import json
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: the report cannot be looked at")

# A browser that asks nobody anything.
QUIET = (
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-quic",
)  # fmt: skip

# Measures the finished page, then sorts the first table by F1 twice, and leaves what it found in the document.
PROBE = """
<script>
const table = [...document.querySelectorAll("table")].find((t) => t.caption.textContent.startsWith("Table 2."));
const column = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent.trim() === "F1");
const read = () => [...table.tBodies[0].rows].map((row) => row.cells[column].textContent.trim());
const button = table.tHead.rows[0].cells[column].querySelector("button");
const found = {
  width: innerWidth,
  page: document.documentElement.scrollWidth,
  figures: [...document.querySelectorAll("figure.live svg")].map((s) => s.getBoundingClientRect().width),
  text: parseFloat(getComputedStyle(table).fontSize),
  wide: [...document.querySelectorAll("main *")].filter((e) =>
    !e.closest(".scroll, pre") && e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.tagName),
  cut: [...document.querySelectorAll(".scroll")]
    .filter((e) => !e.closest("details") && e.scrollWidth > e.clientWidth + 1).map((e) => e.getAttribute("aria-label")),
  sections: [...document.querySelectorAll("main > section > h2")].map((h) => h.textContent),
  verdict: document.querySelector(".verdict .sentence").textContent,
  alone: [...document.querySelectorAll(".pictures figure:last-child:nth-child(odd)")].map((f) =>
    f.querySelector("figcaption").getBoundingClientRect().top - f.querySelector("svg").getBoundingClientRect().bottom),
  second: table.tHead.rows[0].cells[1].textContent.trim(),
  tables: [...document.querySelectorAll("table")].filter((t) => t.getBoundingClientRect().height > 40).length,
};
button.click(); found.down = read(); found.first = table.tHead.querySelector("[aria-sort]").getAttribute("aria-sort");
button.click(); found.up = read();
const live = document.querySelector("figure.live:has([data-legend])");
live.querySelector("circle").dispatchEvent(new Event("pointerenter"));
found.told = live.querySelector("output").textContent;
const key = live.querySelector("[data-legend]");
const box = (element) => element.getBoundingClientRect();
found.keys = [...live.querySelectorAll("[data-legend]")].map((one) => [...live.querySelectorAll("[data-entry]")]
  .filter((entry) => entry.dataset.entry === one.dataset.legend).every((entry) =>
    box(one).left < box(entry).left + 2 && box(one).right > box(entry).right - 2
    && box(one).top < box(entry).bottom - 2 && box(one).bottom > box(entry).top + 2));
const hidden = () =>
  [...live.querySelectorAll("[data-series]")].filter((e) => getComputedStyle(e).display === "none").length;
key.dispatchEvent(new Event("click")); found.hidden = hidden();
key.dispatchEvent(new Event("click")); found.shown = hidden();
parent.postMessage(JSON.stringify(found), "*");
</script>
"""
# A frame of the width wanted, as headless Chromium makes no window narrower than 500 pixels.
FRAME = """<!DOCTYPE html><body><script>
addEventListener("message", (event) => {{
  const note = document.createElement("pre"); note.id = "found"; note.textContent = event.data;
  document.body.append(note);
}});
</script><iframe src="probed.html" style="border: 0; width: {width}px; height: 900px"></iframe></body>
"""


def chromium(folder, page, width, *options) -> str:
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *QUIET, profile, *options]
    result = subprocess.run(
        [*command, f"--window-size={width},3600", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout


@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_fits_and_sorts(full_run, tmp_path, width):
    probed = tmp_path / "probed.html"
    probed.write_text((full_run / "report.html").read_text().replace("</body>", PROBE + "</body>"))
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    dom = chromium(tmp_path, tmp_path / "frame.html", 1500, "--dump-dom", "--virtual-time-budget=10000")
    found = json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.S)[1]))
    assert found["width"] == width
    assert found["page"] <= width, "the page is wider than the window"
    assert width < 1440 or found["cut"] == [], "a table is cut on a desk"
    assert found["wide"] == [], "something reaches over the right edge"
    for section in (
        "Precision, recall and F1",
        "Paired differences",
        "Time and memory",
        "Clusters",
        "Hardest identities",
    ):
        assert section in found["sections"]
    assert "95 % interval" in found["verdict"]
    assert found["alone"] and all(gap >= 0 for gap in found["alone"]), "a caption is not below its figure"
    assert (found["second"] == "F1") == (width < 720)
    assert len(found["figures"]) == len(list((full_run / "figures").glob("*.png"))) >= 10
    assert all(250 < shown <= width for shown in found["figures"])
    assert found["keys"] and all(found["keys"]), "a legend's entry is not where one clicks"
    assert "±" in found["told"] and found["hidden"] >= 2 and found["shown"] == 0
    assert found["text"] >= 13 and found["tables"] >= 8
    numbers = [float(text.split()[0]) for text in found["down"]]
    assert found["first"] == "descending" and numbers == sorted(numbers, reverse=True)
    assert found["up"] == found["down"][::-1]


@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_as_a_picture(full_run, tmp_path, width):
    picture = tmp_path / "page.png"
    chromium(tmp_path, full_run / "report.html", width, f"--screenshot={picture}")
    pixels = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB")).astype(int)
    assert pixels.shape[1] == width
    # Dark text, the proposal's blue and ISM's vermillion are all to be seen.
    for colour in ((31, 36, 48), (0, 114, 178), (213, 94, 0)):
        assert (np.abs(pixels - colour).max(axis=2) < 12).sum() > 100, colour
    # No screenful is empty.
    for top in range(0, pixels.shape[0] - 800, 800):
        assert (pixels[top : top + 800].min(axis=2) < 120).mean() > 0.003

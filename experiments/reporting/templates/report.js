"use strict";
// On a telephone few columns are in sight: F1 comes first.
if (matchMedia("(max-width: 720px)").matches) {
  for (const table of document.querySelectorAll("table.sortable")) {
    const f1 = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.trim() === "F1");
    if (f1 > 1) for (const row of table.rows) row.cells[1].before(row.cells[f1]);
  }
}
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const numeric = heading.classList.contains("number");
      // Numbers start with the largest, names with A; a second click turns round.
      const before = heading.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : numeric;
      const key = (row) => {
        const cell = row.cells[column];
        return numeric ? parseFloat(cell.dataset.sort) : cell.textContent.trim();
      };
      const compare = (a, b) => numeric ? (a < b ? -1 : a > b ? 1 : 0) : a.localeCompare(b, undefined, { numeric: true });
      const missing = (value) => numeric && !Number.isFinite(value);
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => missing(a) - missing(b) || (descending ? compare(b, a) : compare(a, b)));
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      // Groups of rows have no meaning in another order.
      for (const [, row] of rows) { row.classList.remove("start"); body.append(row); }
    });
  });
}
for (const figure of document.querySelectorAll("figure.live")) {
  const output = figure.querySelector("output");
  for (const point of figure.querySelectorAll("circle")) {
    const tell = () => { output.textContent = point.textContent; };
    point.addEventListener("pointerenter", tell);
    point.addEventListener("click", tell);
  }
  for (const key of figure.querySelectorAll("[data-legend]")) {
    const name = key.dataset.legend;
    const toggle = () => {
      const shown = key.getAttribute("aria-pressed") !== "true";
      key.setAttribute("aria-pressed", shown);
      for (const part of figure.querySelectorAll("[data-series], [data-entry]")) {
        if (part.dataset.series === name) part.classList.toggle("hidden", !shown);
        if (part.dataset.entry === name) part.classList.toggle("off", !shown);
      }
    };
    key.addEventListener("click", toggle);
    key.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
    });
  }
}

"""What the page of a comparison looks like, and how its tables are sorted."""

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px }
th, td { border-bottom: 1px solid #d7dcde; padding: .3rem .6rem; text-align: right; white-space: nowrap }
tbody th { text-align: left; font-weight: 600 }
thead button { font: inherit; font-weight: 600; border: 0; background: none; padding: 0; cursor: pointer }
th[aria-sort=ascending] button::after { content: " \\25B2" / "" }
th[aria-sort=descending] button::after { content: " \\25BC" / "" }
img { max-width: 100%; height: auto }
code { white-space: pre-wrap; overflow-wrap: anywhere; display: block; max-width: 40rem; text-align: left }
"""

SCRIPT = """
"use strict";
// The first press sorts from low to high, the next from high to low. A column is sorted by the first number of each
// cell if all that are not empty begin with one, else by its text; empty cells are last either way.
function sortBy(heading) {
  const number = heading.cellIndex, body = heading.closest("table").tBodies[0];
  const up = heading.getAttribute("aria-sort") !== "ascending";
  const text = row => row.cells[number].textContent.trim();
  const rows = Array.from(body.rows), full = rows.filter(row => text(row));
  const numeric = full.every(row => Number.isFinite(parseFloat(text(row))));
  const compare = (a, b) => numeric ? parseFloat(text(a)) - parseFloat(text(b)) : text(a).localeCompare(text(b));
  full.sort((a, b) => up ? compare(a, b) : compare(b, a));
  body.append(...full, ...rows.filter(row => !text(row)));
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
}
for (const button of document.querySelectorAll("thead button"))
  button.addEventListener("click", () => sortBy(button.closest("th")));
"""

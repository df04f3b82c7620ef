"use strict";
// Headers of tables become buttons that sort: upwards first, then the other way. Rows without a
// value stay last both ways, and rows that are equal stay in the order they had.
const texts = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
const missing = new Set(["", "-", "–", "—"]);

function keyOf(cell, isNumber) {
  if (isNumber) return "value" in cell.dataset ? Number(cell.dataset.value) : null;
  const text = cell.textContent.trim();
  return missing.has(text) ? null : text;
}

function sort(table, column, isNumber, isUpwards) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, key: keyOf(row.cells[column], isNumber) }));
  rows.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    const order = isNumber ? Math.sign(a.key - b.key) || 0 : texts.compare(a.key, b.key);
    return isUpwards ? order : -order;
  });
  for (const { row } of rows) body.append(row);
}

function makeSortable(table) {
  const headers = Array.from(table.tHead.rows[0].cells);
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...header.childNodes);
    header.append(button);
    header.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const isUpwards = header.getAttribute("aria-sort") !== "ascending";
      for (const other of headers) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", isUpwards ? "ascending" : "descending");
      sort(table, column, header.classList.contains("number"), isUpwards);
    });
  });
}

for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length > 1) makeSortable(table);
}

// Paper cannot be unfolded.
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = Array.from(document.querySelectorAll("details:not([open])"));
  for (const details of unfolded) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of unfolded) details.open = false;
});

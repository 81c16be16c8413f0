"use strict";
const data = JSON.parse(document.getElementById("data").textContent);

// Values are compared as numbers where both are; cells without a value are last, whatever the direction.
function compare(a, b, direction) {
  if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
  const difference = a - b;
  return direction * (Number.isNaN(difference) ? a.localeCompare(b, undefined, { numeric: true }) : difference);
}

function sort(table, header) {
  const body = table.tBodies[0];
  const index = header.cellIndex;
  const rows = [...body.rows];
  rows.forEach((row, place) => { row.dataset.place ??= place; });
  const next = { none: "descending", descending: "ascending", ascending: "none" };
  const first = header.classList.contains("number") ? "descending" : "ascending";
  const state = header.getAttribute("aria-sort");
  const order = first === "descending" ? next[state] : { none: "ascending", ascending: "descending", descending: "none" }[state];
  for (const other of header.parentNode.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", order);
  const value = new Map(rows.map((row) => [row, order === "none" ? row.dataset.place : row.cells[index].dataset.value]));
  const direction = order === "descending" ? -1 : 1;
  rows.sort((a, b) => compare(value.get(a), value.get(b), direction) || a.dataset.place - b.dataset.place);
  body.append(...rows);
  const words = order === "none" ? "in the original order" : `sorted by ${header.textContent.trim()}, ${order}`;
  document.getElementById("announcement").textContent = `The table is ${words}.`;
}

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function open(cell) {
  const row = cell.parentNode;
  const origin = data.origins[row.dataset.origin];
  const table = row.closest("table");
  const column = data.columns[table.dataset.name][cell.cellIndex];
  const body = document.getElementById("origin-body");
  document.getElementById("origin-title").textContent = `${origin.label}: ${column.header}`;
  body.replaceChildren(element("p", cell.textContent, "value"));
  if (column.explanation) body.append(element("p", column.explanation));
  const runs = table.dataset.name === "runs" ? origin.runs.filter((run) => run.folder === row.cells[0].textContent) : origin.runs;
  for (const run of runs) {
    body.append(element("h3", `${run.folder} (seed ${run.seed})`));
    const list = document.createElement("dl");
    const value = run.values[column.key];
    if (value !== undefined) list.append(element("dt", column.header), element("dd", value.toFixed(4)));
    for (const [words, fact] of Object.entries(run.facts)) {
      list.append(element("dt", words), element("dd", fact, words === "command" ? "code" : ""));
    }
    body.append(list);
  }
  const dialog = document.getElementById("origin");
  dialog.showModal();
  dialog.scrollTop = 0;
}

// One cell of a grid is in the tab order; arrow keys move from there.
function focusCell(grid, cell) {
  for (const other of grid.querySelectorAll("tbody [tabindex='0']")) other.tabIndex = -1;
  cell.tabIndex = 0;
  cell.focus();
}

function move(grid, cell, key) {
  const row = cell.parentNode;
  const rows = [...grid.tBodies[0].rows].filter((each) => each.dataset.origin !== undefined);
  const place = rows.indexOf(row);
  const target = {
    ArrowLeft: row.cells[cell.cellIndex - 1], ArrowRight: row.cells[cell.cellIndex + 1],
    ArrowUp: rows[place - 1]?.cells[cell.cellIndex], ArrowDown: rows[place + 1]?.cells[cell.cellIndex],
    Home: row.cells[0], End: row.cells[row.cells.length - 1],
  }[key];
  if (target) focusCell(grid, target);
}

for (const table of document.querySelectorAll("table")) {
  table.tHead.addEventListener("click", (event) => {
    const header = event.target.closest("th");
    if (header && event.target.closest("button")) sort(table, header);
  });
}
for (const grid of document.querySelectorAll("table[role=grid]")) {
  const first = grid.querySelector("tbody tr[data-origin] > *");
  if (first) first.tabIndex = 0;
  const cellOf = (event) => event.target.closest("tr[data-origin] > *");
  grid.tBodies[0].addEventListener("click", (event) => {
    const cell = cellOf(event);
    if (cell && !String(getSelection())) { focusCell(grid, cell); open(cell); }
  });
  grid.tBodies[0].addEventListener("keydown", (event) => {
    const cell = cellOf(event);
    if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") { open(cell); event.preventDefault(); }
    if (/^(Arrow|Home$|End$)/.test(event.key)) { move(grid, cell, event.key); event.preventDefault(); }
  });
}
const dialog = document.getElementById("origin");
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

"use strict";
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, i) => {
    const cell = row.cells[i];
    return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
  };
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const numbers = body.rows.length > 0 && typeof key(body.rows[0], i) === "number";
      const now = head.getAttribute("aria-sort");
      const down = now === null ? numbers : now === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a, i), key(b, i)];
        return (down ? -1 : 1) * (numbers ? x - y : x.localeCompare(y, "en", { numeric: true }));
      });
      body.append(...rows);
    });
  });
}
const filter = document.getElementById("filter");
const rows = [...document.querySelectorAll("tbody tr")];
function show() {
  const wanted = filter.value.trim().toLowerCase();
  for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  const left = rows.filter((row) => !row.hidden).length;
  document.getElementById("count").textContent = wanted ? `${left} of ${rows.length} rows` : "";
}
filter.addEventListener("input", show);
document.getElementById("tools").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("tools").hidden = false;
show();

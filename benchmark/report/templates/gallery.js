"use strict";
const tools = document.getElementById("tools");
const main = document.getElementById("main");
const queries = [...main.querySelectorAll(".q")];
const ranks = new Map(queries.map((query) => [query, query.dataset.ranks.split(" ").map(Number)]));
const value = (id) => document.getElementById(id)?.value ?? "";
function show() {
  const within = Number(value("within"));
  const found = (query, method) => {
    const rank = ranks.get(query)[Number(method)];
    return rank > 0 && rank <= within;
  };
  let left = 0;
  for (const query of queries) {
    const kept =
      (value("group") === "" || query.dataset.group === value("group")) &&
      (value("audit") === "" || value("audit").split(" ").includes(query.dataset.audit)) &&
      (value("finds") === "" || found(query, value("finds"))) &&
      (value("misses") === "" || !found(query, value("misses")));
    query.hidden = !kept;
    left += kept;
  }
  document.getElementById("count").textContent = `${left} of ${queries.length} queries`;
}
function order() {
  const method = value("order");
  const rank = (query) => ranks.get(query)[Number(method)] || Infinity;
  const sorted = method === "" ? queries : [...queries].sort((a, b) => rank(a) - rank(b) || 0);
  main.append(...sorted);
}
tools.addEventListener("change", (event) => {
  if (event.target.id === "order") order();
  show();
});
tools.addEventListener("reset", () => setTimeout(() => { order(); show(); }));
tools.addEventListener("submit", (event) => event.preventDefault());
tools.hidden = false;
show();

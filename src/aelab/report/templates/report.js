// A click on a column's heading sorts the table. Without this script, rows have the order of params.yaml.
const number = (cell) => parseFloat(cell.textContent.replace(/[,+\s]/g, "").replace("−", "-"));
const undefinedLast = (a, b) => (Number.isNaN(a) ? 1 : 0) - (Number.isNaN(b) ? 1 : 0);
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], original = [...body.rows], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (column === 0 || original.length < 2) return;
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `sort by ${head.textContent.trim()}`);
    head.append(button);
    button.addEventListener("click", () => {
      const order = { none: "ascending", ascending: "descending", descending: "none" }[head.ariaSort ?? "none"];
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      if (order !== "none") head.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1, key = (row) => number(row.cells[column]);
      const rows = order === "none" ? original
        : [...original].sort((a, b) => undefinedLast(key(a), key(b)) || sign * (key(a) - key(b)) || 0);
      body.append(...rows);
    });
  });
}
// Open the folded part that a link leads to, because not every browser opens this part itself.
const reveal = (hash) => {
  const target = document.getElementById(decodeURIComponent(hash.slice(1)));
  for (let each = target; each; each = each.parentElement) if (each.tagName === "DETAILS") each.open = true;
  target?.scrollIntoView();
};
addEventListener("hashchange", () => reveal(location.hash));
addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='#']");
  if (link && link.hash === location.hash) reveal(link.hash);
});
if (location.hash) reveal(location.hash);
// Open all folded parts for printing.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => (each.open = true)));

// Begins everything once the page of an analysis stands.

// The nearest tokens of one soft prompt at a time.
function startTokens(host) {
  const { columns, rows } = data.tables.tokens;
  const shown = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Nearest tokens" });
  const names = [...new Set(rows.map((row) => row[0]))];
  const draw = (name) => {
    const own = rows.filter((row) => row[0] === name).map((row) => row.slice(1));
    shown.replaceChildren(numbersTable({ columns: columns.slice(1), rows: own }));
  };
  const select = element("select", { onchange: (event) => draw(event.target.value) }, ...names.map((name) => element("option", { value: name }, name)));
  host.append(element("div", { class: "controls" }, element("label", {}, "Soft prompt", select)), shown);
  draw(names[0]);
}

document.querySelectorAll("table.sortable").forEach(startSorting);
document.querySelectorAll("[data-table]").forEach(startTools);
document.querySelectorAll("[data-chart]").forEach(startChart);
document.querySelectorAll("[data-heat]").forEach(startHeat);
document.querySelectorAll("[data-tokens]").forEach(startTokens);

// Tables are sorted by their headings: numbers from the largest, words from A, turned round by a second press.
const key = (row, column) => {
  const text = row.cells[column].textContent.trim();
  return row.cells[column].className ? parseFloat(text.replace(/[$,\s]/g, "")) : text.toLowerCase();
};
for (const table of document.querySelectorAll("table.sortable")) {
  const [body, headings] = [table.tBodies[0], [...table.tHead.rows[0].cells]];
  headings.forEach((heading, column) => heading.firstChild.addEventListener("click", () => {
    const keyed = [...body.rows].map((row) => [key(row, column), row]);
    const known = keyed.filter(([value]) => value === value);
    const before = heading.getAttribute("aria-sort");
    const up = before ? before === "descending" : typeof known[0]?.[0] === "string";
    known.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1));
    body.append(...known.map(([, row]) => row), ...keyed.filter(([value]) => value !== value).map(([, row]) => row));
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  }));
}

// Tasks are searched, filtered and ordered; a chosen method alone is shown, searched and ordered by.
const [form, list] = [document.querySelector(".controls"), document.getElementById("list")];
const tasks = [...list.children];
const mean = (task) => {
  const scores = JSON.parse(task.dataset.scores);
  const values = form.method.value ? [scores[form.method.value]] : Object.values(scores);
  return values.reduce((a, b) => a + b, 0) / values.length;
};
const show = () => {
  const words = form.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const task of tasks) {
    const rows = [...task.querySelectorAll("[data-method]")];
    for (const row of rows) row.hidden = form.method.value && row.dataset.method !== form.method.value;
    const shown = rows.filter((row) => !row.hidden);
    const text = [task.firstElementChild, ...shown].map((node) => node.textContent).join(" ").toLowerCase();
    const failed = shown.some((row) => row.querySelector(".failure"));
    task.hidden = (form.family.value && task.dataset.family !== form.family.value) || (form.failed.checked && !failed)
      || !words.every((word) => text.includes(word));
  }
  const ordered = form.order.value ? [...tasks].sort((a, b) => form.order.value * (mean(a) - mean(b)) || 0) : tasks;
  list.append(...ordered);
  form.querySelector("output").textContent = `${tasks.filter((task) => !task.hidden).length} of ${tasks.length} tasks`;
};
for (const event of ["input", "change"]) form.addEventListener(event, show);
form.open.addEventListener("change", () => tasks.forEach((task) => (task.open = form.open.checked)));
form.addEventListener("submit", (event) => event.preventDefault());
show();

// Two kinds of chart, drawn at the width there is: "dots" (a value and its interval in each line) and "scatter" (marks,
// curves or both). A chart names the columns of its table; `<x> low` and `<x> high` are the ends of an interval.

const COLOURS = 8;
const MARKS = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (r) => `M0,${-1.25 * r}L${1.15 * r},${0.85 * r}H${-1.15 * r}z`,
  (r) => `M0,${-1.35 * r}L${1.35 * r},0L0,${1.35 * r}L${-1.35 * r},0z`,
];

const colour = (index) => "s" + (index % COLOURS);
const markPath = (index, r) => MARKS[Math.floor(index / COLOURS) % MARKS.length](r);

function pointsOf(chart, table) {
  const at = (name) => table.columns.indexOf(name);
  const pick = (row, name) => (name && at(name) >= 0 ? row[at(name)] : null);
  const known = chart.series === "method" ? data.methods : chart.series === "family" ? data.families : [];
  const series = [...new Set([...known, ...table.rows.map((row) => pick(row, chart.series))])];
  return table.rows.map((row) => ({
    row,
    label: pick(row, chart.label),
    series: pick(row, chart.series),
    index: series.indexOf(pick(row, chart.series)),
    x: pick(row, chart.x),
    xs: [pick(row, chart.x + " low"), pick(row, chart.x + " high")],
    y: pick(row, chart.y),
    ys: [pick(row, chart.y + " low"), pick(row, chart.y + " high")],
    size: pick(row, chart.size),
  }));
}

function line(cls, x1, y1, x2, y2) {
  return shape("line", { class: cls, x1, y1, x2, y2 });
}

function text(string, x, y, anchor, cls) {
  return shape("text", { x, y, "text-anchor": anchor, class: cls }, string);
}

function drawDots(host, chart, table) {
  const points = pointsOf(chart, table).map((point, index) => ({ ...point, index, y: null }));
  const width = host.clientWidth;
  const longest = Math.max(...points.map((point) => point.label.length));
  const left = Math.min(0.42 * width, 7 * longest + 16);
  const [right, step] = [52, 26];
  const height = points.length * step + 30;
  const svg = canvas(width, height, `${chart.title}: ${points.length} ${chart.of ?? "methods"}`);
  const x = linearScale([], left, width - right, true, width < 500 ? 4 : 5);
  for (const tick of x.ticks) {
    svg.append(line("grid", x(tick), 4, x(tick), height - 24), text(tickText(tick), x(tick), height - 8, "middle", "faint"));
  }
  for (const [i, point] of points.entries()) {
    const y = i * step + 17;
    const [low, high] = point.xs;
    const fits = Math.floor((left - 12) / 6.6);
    const shown = point.label.length > fits ? point.label.slice(0, fits - 1) + "…" : point.label;
    point.px = x(point.x);
    point.py = y;
    point.mark = shape("path", { class: "mark s0", d: markPath(0, 4.5), transform: `translate(${point.px},${y})` });
    svg.append(text(shown, left - 10, y + 4, "end"));
    if (low !== null && high !== null) svg.append(line("interval s0", x(low), y, x(high), y));
    svg.append(point.mark, text(number(point.x), width - right + 10, y + 4, "start"));
  }
  host.replaceChildren(svg);
  pointing(svg, points, (point) => describe(chart, table, point));
}

function drawScatter(host, chart, table, state) {
  const all = pointsOf(chart, table).filter((point) => point.x !== null && point.y !== null);
  const points = chart.choose ? all.filter((point) => state.has(point.series)) : all;
  const width = host.clientWidth;
  const height = Math.round(Math.min(chart.bare ? 520 : 400, Math.max(280, 0.62 * width)));
  const svg = canvas(width, height, `${chart.title}: ${points.length} points`);
  const box = chart.bare
    ? { left: 10, right: width - 10, top: 10, bottom: height - 10 }
    : { left: 52, right: width - 14, top: 12, bottom: height - 44 };
  const ends = (key) => points.flatMap((point) => [point[key], ...point[key + "s"]]).filter((value) => value !== null);
  const share = (values) => !chart.bare && values.every((value) => value >= 0 && value <= 1);
  const xs = points.length ? ends("x") : [0, 1];
  const ys = points.length ? ends("y") : [0, 1];
  const x = chart.log_x
    ? logScale(xs, box.left, box.right)
    : linearScale(xs, box.left, box.right, chart.unit, width < 500 ? 4 : 6);
  const y = linearScale(ys, box.bottom, box.top, !chart.choose && share(ys), 5);
  if (!chart.bare) axes(svg, chart, box, x, y);
  if (chart.diagonal) svg.append(line("diagonal", x(0), y(0), x(1), y(1)));
  if (chart.lines) curves(svg, points, x, y);
  const largest = Math.max(...points.map((point) => point.size ?? 0));
  for (const point of points) {
    point.px = x(point.x);
    point.py = y(point.y);
    interval(svg, point, x, y);
  }
  for (const point of points) {
    const r = chart.marks === false ? 0.01 : chart.size ? 3 + 5 * Math.sqrt(point.size / largest) : chart.bare ? 4.5 : 5.5;
    point.mark = shape("path", { class: `mark ${colour(point.index)}`, d: markPath(point.index, r) });
    point.mark.setAttribute("transform", `translate(${point.px},${point.py})`);
    svg.append(point.mark);
  }
  host.replaceChildren(svg);
  const unnamed = chart.names ? nameMarks(svg, points, box) : 1;
  if (unnamed) host.append(legend(chart, all, points, state, () => drawScatter(host, chart, table, state)));
  pointing(svg, points, (point) => describe(chart, table, point));
}

function canvas(width, height, label) {
  const attributes = { viewBox: `0 0 ${width} ${height}`, height, tabindex: 0, role: "img" };
  return shape("svg", { ...attributes, "aria-label": label + ". Arrow keys move among them; the numbers are below." });
}

function axes(svg, chart, box, x, y) {
  for (const tick of x.ticks) {
    svg.append(line("grid", x(tick), box.top, x(tick), box.bottom));
    svg.append(text(tickText(tick), x(tick), box.bottom + 17, "middle", "faint"));
  }
  for (const tick of y.ticks) {
    svg.append(line("grid", box.left, y(tick), box.right, y(tick)));
    svg.append(text(tickText(tick), box.left - 8, y(tick) + 4, "end", "faint"));
  }
  svg.append(line("axis", box.left, box.bottom, box.right, box.bottom));
  svg.append(text(chart.x_title + (chart.log_x ? " (log)" : ""), (box.left + box.right) / 2, box.bottom + 37, "middle"));
  const title = text(chart.y_title, 0, 0, "middle");
  title.setAttribute("transform", `translate(12,${(box.top + box.bottom) / 2}) rotate(-90)`);
  svg.append(title);
}

function interval(svg, point, x, y) {
  const cls = `interval ${colour(point.index)}`;
  const [left, right] = point.xs;
  const [low, high] = point.ys;
  const start = svg.childNodes.length;
  if (left !== null && right !== null) svg.append(line(cls, x(left), point.py, x(right), point.py));
  if (low !== null && high !== null) svg.append(line(cls, point.px, y(low), point.px, y(high)));
  point.parts = [...svg.childNodes].slice(start);
}

function curves(svg, points, x, y) {
  for (const series of new Set(points.map((point) => point.series))) {
    const own = points.filter((point) => point.series === series).sort((a, b) => a.x - b.x);
    const path = own.map((point, i) => `${i ? "L" : "M"}${x(point.x)},${y(point.y)}`).join("");
    const curve = shape("path", { class: `curve ${colour(own[0].index)}`, d: path });
    own[0].curve = curve;
    svg.append(curve);
  }
}

// Writes each mark's name where it covers no mark and no other name; returns how many found no place.
function nameMarks(svg, points, box) {
  const taken = points.map((point) => ({ x: point.px - 7, y: point.py - 7, w: 14, h: 14 }));
  const free = (r) =>
    r.x >= box.left && r.x + r.w <= box.right + 10 && r.y >= 0 && r.y + r.h <= box.bottom &&
    taken.every((o) => r.x + r.w < o.x || o.x + o.w < r.x || r.y + r.h < o.y || o.y + o.h < r.y);
  let unnamed = 0;
  for (const point of points) {
    const name = text(point.label, 0, 0, "start");
    svg.append(name);
    const [w, h] = [name.getComputedTextLength(), 13];
    const places = [];
    for (const lift of [0, -10, 10, -18, 18]) places.push([point.px + 10, point.py - h / 2 + lift], [point.px - 10 - w, point.py - h / 2 + lift]);
    for (const lift of [-22, 9]) places.push([point.px - w / 2, point.py + lift]);
    const found = places.find(([px, py]) => free({ x: px, y: py, w, h }));
    if (!found) {
      name.remove();
      unnamed++;
      continue;
    }
    taken.push({ x: found[0], y: found[1], w, h });
    name.setAttribute("x", found[0]);
    name.setAttribute("y", found[1] + 10.5);
    point.parts.push(name);
  }
  return unnamed;
}

function startChart(host) {
  const chart = data.charts[host.dataset.chart];
  const table = data.tables[chart.table];
  const state = new Set(chart.chosen ?? []);
  const draw = () => (chart.kind === "dots" ? drawDots : drawScatter)(host, chart, table, state);
  let width = 0;
  new ResizeObserver(() => {
    if (Math.abs(host.clientWidth - width) < 2) return;
    width = host.clientWidth;
    draw();
  }).observe(host);
}

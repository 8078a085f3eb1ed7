// Heat maps of square matrices on a canvas: sorted at will, described under the pointer or the keys.

const HEAT = { strip: 6, gap: 4, least: 2, names: 9, widest: 860 };

function heatColours() {
  const style = getComputedStyle(document.documentElement);
  const triple = (name) => style.getPropertyValue(name).split(",").map(Number);
  const plain = (name) => style.getPropertyValue(name).trim();
  return { high: triple("--heat"), low: triple("--heat-low"), ground: triple("--heat-zero"), none: plain("--line"),
    ink: plain("--ink"), muted: plain("--muted"), series: [...Array(COLOURS).keys()].map((i) => plain("--s" + i)) };
}

// Without a diagonal of zeros, on which a matrix of distances would else spend half its shades.
function heatRange(heat) {
  const values = heat.values.flatMap((row, i) => row.filter((value, j) => value !== null && (i !== j || heat.diagonal)));
  if (!values.length) return [0, 1];
  const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  if (!heat.diverging) return low < high ? [low, high] : [low - 0.5, high + 0.5];
  const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  return [-most, most];
}

function heatColour(heat, [low, high], colours, value) {
  if (value === null) return colours.none;
  const share = Math.min(1, Math.max(0, (value - low) / (high - low)));
  const [to, t] = heat.diverging ? (share < 0.5 ? [colours.low, 1 - 2 * share] : [colours.high, 2 * share - 1]) : [colours.high, share];
  return `rgb(${colours.ground.map((from, i) => Math.round(from + (to[i] - from) * t)).join(",")})`;
}

function heatOrder(heat, state) {
  if (state.order !== "row") return heat.orders[state.order];
  const row = heat.values[state.row];
  const key = (i) => (i === state.row ? -Infinity : row[i] === null ? Infinity : heat.what === "distance" ? row[i] : -row[i]);
  return heat.orders["as analysed"].slice().sort((a, b) => key(a) - key(b) || a - b);
}

function drawHeat(host, heat, state) {
  const n = heat.names.length;
  const room = Math.min(host.clientWidth, HEAT.widest);
  const context = state.canvas.getContext("2d");
  context.font = "11px system-ui, sans-serif";
  const longest = Math.min(0.3 * room, Math.max(...heat.names.map((name) => context.measureText(name).width)) + 10);
  const named = (room - longest - HEAT.strip - HEAT.gap) / n >= HEAT.names;
  const left = (named ? longest : 0) + HEAT.strip + HEAT.gap;
  const cell = Math.max(HEAT.least, Math.min(34, Math.floor((room - left) / n)));
  const [width, height] = [left + n * cell, HEAT.strip + HEAT.gap + n * cell];
  const scale = devicePixelRatio || 1;
  Object.assign(state.canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  Object.assign(state.canvas.style, { width: width + "px", height: height + "px" });
  Object.assign(state, { cell, left, top: HEAT.strip + HEAT.gap, shown: heatOrder(heat, state) });
  context.scale(scale, scale);
  context.clearRect(0, 0, width, height);
  const colours = heatColours();
  const range = heatRange(heat);
  const gap = cell >= 8 ? 1 : 0;
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  for (const [r, i] of state.shown.entries()) {
    const y = state.top + r * cell;
    const family = colours.series[Math.max(0, data.families.indexOf(heat.families[i])) % COLOURS];
    context.fillStyle = family;
    context.fillRect(left - HEAT.strip - HEAT.gap, y, HEAT.strip, cell - gap);
    context.fillRect(left + r * cell, 0, cell - gap, HEAT.strip);
    for (const [c, j] of state.shown.entries()) {
      const blank = i === j && !heat.diagonal;
      context.fillStyle = heatColour(heat, range, colours, blank ? null : heat.values[i][j]);
      context.fillRect(left + c * cell, y, cell - gap, cell - gap);
    }
    if (named) {
      context.fillStyle = colours.ink;
      context.fillText(clipped(context, heat.names[i], longest - 10), 0, y + cell / 2);
    }
  }
  if (state.at) {
    context.strokeStyle = colours.ink;
    context.lineWidth = 2;
    context.strokeRect(left + state.at[1] * cell - 1, state.top + state.at[0] * cell - 1, cell + 1, cell + 1);
  }
  state.key.replaceChildren(...heatKey(heat, range, colours));
}

function clipped(context, string, width) {
  if (context.measureText(string).width <= width) return string;
  let n = string.length;
  while (n > 1 && context.measureText(string.slice(0, n) + "…").width > width) n--;
  return string.slice(0, n) + "…";
}

function heatKey(heat, range, colours) {
  const steps = [...Array(48).keys()].map((i) => i / 47);
  const bar = shape("svg", { viewBox: "0 0 240 12", class: "bar", "aria-hidden": "true", preserveAspectRatio: "none" });
  for (const [i, share] of steps.entries()) {
    const fill = heatColour(heat, range, colours, range[0] + share * (range[1] - range[0]));
    bar.append(shape("rect", { x: i * 5, width: 5.2, height: 12, fill }));
  }
  return [element("span", {}, number(range[0])), bar, element("span", {}, `${number(range[1])} ${heat.what}`)];
}

function heatTip(host, heat, state) {
  const [r, c] = state.at;
  const [i, j] = [state.shown[r], state.shown[c]];
  const box = state.canvas.getBoundingClientRect();
  const families = heat.families[i] === heat.families[j] ? heat.families[i] : `${heat.families[i]}, ${heat.families[j]}`;
  const pair = [`${heat.names[i]}`, heat.diverging ? `used on: ${heat.names[j]}` : `and: ${heat.names[j]}`];
  const lines = [...pair, `${heat.what}: ${number(heat.values[i][j])}`, `family: ${families}`];
  tip.show(lines, box.left + state.left + (c + 0.5) * state.cell, box.top + state.top + (r + 0.5) * state.cell);
}

function startHeat(host) {
  const heat = data.heats[host.dataset.heat];
  const label = `${heat.title}: ${heat.names.length} rows and columns. Arrow keys move among cells, Enter sorts by a row.`;
  const canvas = element("canvas", { tabindex: 0, role: "img", "aria-label": label });
  const state = { canvas, order: "clustered", row: 0, at: null, key: element("div", { class: "key" }) };
  const draw = () => drawHeat(host, heat, state);
  const choices = [...Object.keys(heat.orders), "row"].map((name) =>
    element("option", { value: name, selected: name === state.order }, name === "row" ? "by the row pressed last" : name));
  const select = element("select", { onchange: (event) => { state.order = event.target.value; state.at = null; draw(); } }, ...choices);
  const save = element("button", { type: "button", class: "csv", "aria-label": `Download CSV: ${heat.title}` }, "Download CSV");
  const matrix = () => ({ columns: ["", ...heat.names], rows: heat.values.map((row, i) => [heat.names[i], ...row]) });
  save.addEventListener("click", () => download(fileName(heat.title), csv(matrix())));
  const go = (r, c) => {
    const n = heat.names.length;
    state.at = r < 0 || c < 0 || r >= n || c >= n ? null : [r, c];
    draw();
    if (state.at) heatTip(host, heat, state);
    else tip.hide();
  };
  const byRow = () => {
    if (!state.at) return;
    Object.assign(state, { row: state.shown[state.at[0]], order: "row", at: null });
    select.value = "row";
    tip.hide();
    draw();
  };
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const [r, c] = [event.clientY - box.top - state.top, event.clientX - box.left - state.left].map((v) => Math.floor(v / state.cell));
    if (!state.at || state.at[0] !== r || state.at[1] !== c) go(r, c);
    else heatTip(host, heat, state); // scrolling may have hidden it
  });
  canvas.addEventListener("pointerleave", () => go(-1, -1));
  canvas.addEventListener("blur", () => go(-1, -1));
  canvas.addEventListener("click", byRow);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowUp: [-1, 0] }[event.key];
    if (event.key === "Escape") go(-1, -1);
    if (event.key === "Enter") byRow();
    if (!step) return;
    event.preventDefault();
    const last = heat.names.length - 1;
    const [r, c] = state.at ?? [-step[0], -step[1]].map((v) => Math.max(0, v));
    const clamp = (v) => Math.min(last, Math.max(0, v));
    go(...(state.at ? [clamp(r + step[0]), clamp(c + step[1])] : [0, 0]));
  });
  const tools = element("div", { class: "tools" }, element("label", {}, "Sorted ", select), save);
  host.append(tools, canvas, state.key);
  new ResizeObserver(draw).observe(host);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

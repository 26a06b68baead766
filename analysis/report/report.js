"use strict";
(() => {
  const page = JSON.parse(document.getElementById("payload").textContent);
  for (const [name, columns] of Object.entries(page.datasets)) page.datasets[name] = unpack(columns);
  const root = document.documentElement;
  const views = new Map(), brushes = new Set(), params = {}, arms = page.arms ?? {};
  const status = window.__report = { ready: false, errors: [] };
  let selected = [], opened = "";
  const known = new Set([...Object.values(page.methods).flat(), ...Object.keys(arms)]);
  const paths = {
    circle: "M5,0A5,5,0,1,1,-5,0A5,5,0,1,1,5,0Z", square: "M-4.5,-4.5h9v9h-9Z", diamond: "M0,-6L5,0L0,6L-5,0Z",
    "triangle-up": "M0,-5.5L5.5,4.5H-5.5Z", "triangle-down": "M0,5.5L5.5,-4.5H-5.5Z",
    cross: "M-2,-6h4v4h4v4h-4v4h-4v-4h-4v-4h4Z", "triangle-left": "M-5.5,0L4.5,5.5V-5.5Z",
  };

  /* The rows of a data set, which is stored by column (html.py: pack). */
  function unpack({ "": count, ...columns }) {
    const value = (column, at) => (column.length === 1 ? column[0] : Array.isArray(column[0]) ? column[0][column[1][at]] : column[at]);
    return Array.from({ length: count }, (_, at) =>
      Object.fromEntries(Object.entries(columns).map(([name, column]) => [name, value(column, at)])));
  }

  const EDGE = 14; // Beside a saved figure: without the page's letters its text may be wider.
  const coarse = matchMedia("(pointer: coarse)").matches;
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  /* The look, with the colours of the style, light or dark, in place of their names. */
  function coloured(value) {
    if (Array.isArray(value)) {
      return value.flatMap((one) => (one?.startsWith?.("--") ? css(one).split(" ") : [coloured(one)]));
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, coloured(inner)]));
    }
    return value?.startsWith?.("--") ? css(value) : value;
  }

  const look = () => ({ ...coloured(page.look), background: null, font: getComputedStyle(document.body).fontFamily });

  /* A facet cannot follow its container, so its cells are fitted: draw, measure, resize. */
  async function draw(box) {
    const key = box.dataset.chart, figure = page.figures[key], own = params[key] ?? {};
    brushes.delete(views.get(key));
    views.get(key)?.finalize();
    const spec = called(figure, own.metric);
    const room = box.clientWidth, hint = spec.usermeta || {};
    spec.datasets = Object.fromEntries(figure.uses.map((key) => [key, page.datasets[key]]));
    for (const param of spec.params || []) {
      if (param.name === "sel") param.value = selected;
      else if (param.name === "room") param.value = room;
      else if (own[param.name] !== undefined) param.value = own[param.name];
    }
    if (coarse) spec.params = (spec.params || []).filter((param) => param.name !== "brush");
    const options = { config: look(), ast: true, actions: false, renderer: "svg", mode: "vega-lite" };
    options.config.axis.labelLimit = Math.min(230, room * 0.45);
    let result;
    if (!hint.columns) {
      spec.autosize = { type: "fit-x", contains: "padding" };
      result = await vegaEmbed(box, spec, options);
    } else {
      const columns = Math.max(1, Math.min(figure.panels, hint.columns, Math.floor(room / hint.least)));
      const gap = options.config.facet.spacing.column;
      const most = hint.most || room;
      let cell = Math.min(most, Math.floor((room - 60) / columns - gap));
      spec.columns = columns;
      // Texts wider than their cell would widen it, and the fit would never end.
      let widest = columns === 1 ? room * 0.58 : cell;
      for (let round = 0; round < 2; round++) {
        spec.spec.width = cell;
        spec.spec.height = hint.ratio ? Math.round(cell * hint.ratio) : hint.height;
        options.config.header.labelLimit = options.config.axisX.titleLimit = widest;
        if (columns === 1) options.config.axisX.titleLimit = Math.min(widest, room - options.config.axis.labelLimit - 30);
        result?.finalize();
        result = await vegaEmbed(box, spec, options);
        for (let pass = 0; pass < 5; pass++) {
          const spare = room - Number(box.querySelector("svg").getAttribute("width"));
          if (spare >= 0 && (spare < columns + 3 || cell === most)) break;
          cell = Math.min(most, cell + Math.floor(spare / columns));
          result.view.signal("child_width", cell);
          if (hint.ratio) result.view.signal("child_height", Math.round(cell * hint.ratio));
          await result.view.resize().runAsync();
        }
        if (columns > 1 || cell < widest + 20) break;
        widest = cell;
      }
    }
    const svg = box.querySelector("svg");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", figure.title);
    svg.querySelectorAll("[role]").forEach((node) => node.removeAttribute("role"));
    svg.querySelectorAll(":scope > g").forEach((node) => node.setAttribute("aria-hidden", "true"));
    result.view.addEventListener("click", (_, item) => known.has(item?.datum?.arm) && toggle([item.datum.arm]));
    if (spec.params?.some((param) => param.name === "brush")) {
      brushes.add(result.view);
      result.view.addSignalListener("brush", (_, ranges) => brushed(figure, ranges));
    }
    views.set(key, result.view);
  }

  /* The spec; an axis that is called after a choice has its name. */
  function called(figure, metric) {
    const names = figure.choices, name = names && (names[metric] ?? Object.values(names)[0]);
    if (!name) return structuredClone(figure.spec);
    return JSON.parse(JSON.stringify(figure.spec).replaceAll("{metric}", JSON.stringify(name).slice(1, -1)));
  }

  /* Select the arms whose points lie within the brush; a click, which has no area, changes nothing. */
  function brushed(figure, ranges) {
    const fields = Object.entries(ranges ?? {});
    if (!fields.length) return;
    const rows = figure.uses.flatMap((name) => page.datasets[name]).filter((row) => known.has(row.arm));
    const inside = rows.filter((row) => fields.every(([field, ends]) =>
      row[field] >= Math.min(...ends) && row[field] <= Math.max(...ends)));
    selected = [...new Set(inside.map((row) => row.arm))];
    show();
  }

  async function drawAll() {
    for (const box of document.querySelectorAll("[data-chart]")) {
      if (box.closest("details:not([open])")) continue; // It has no width yet.
      try { await draw(box); } catch (error) {
        status.errors.push(`${box.dataset.chart}: ${error}`);
        console.error(error);
      }
    }
    for (const svg of document.querySelectorAll(".methods svg")) {
      const at = Number(svg.dataset.order), colours = look().range.category;
      svg.innerHTML = `<path d="${paths[page.look.range.symbol[at % page.look.range.symbol.length]]}" fill="${colours[at % colours.length]}"/>`;
    }
  }

  function show() {
    for (const view of views.values()) {
      if ("sel" in view.getState().signals) view.signal("sel", selected).runAsync();
    }
    for (const row of document.querySelectorAll("tr[data-arm]")) {
      const on = selected.includes(row.dataset.arm);
      row.classList.toggle("on", on);
      row.querySelector("button")?.setAttribute("aria-pressed", on);
    }
    for (const button of document.querySelectorAll("[data-method]")) {
      const arms = page.methods[button.dataset.method];
      button.setAttribute("aria-pressed", arms.length > 0 && arms.every((arm) => selected.includes(arm)));
    }
    const chip = document.getElementById("chip");
    chip.hidden = !selected.length;
    chip.firstElementChild.textContent = selected.length === 1 ? "1 selected" : `${selected.length} selected`;
    history.replaceState(null, "", here());
  }

  /* The address of what is selected and open. */
  function here() {
    const at = new URLSearchParams(selected.map((arm) => ["sel", arm]));
    if (opened) at.append("open", opened);
    return location.href.split("#")[0] + (`${at}` ? `#${at}` : "");
  }

  /* Take over what an address asks for; one that names a section asks for nothing else. */
  function follow() {
    const at = new URLSearchParams(location.hash.slice(1));
    if (!at.has("sel") && !at.has("open")) return;
    selected = [...new Set(at.getAll("sel"))].filter((arm) => known.has(arm));
    if (at.has("open")) open(at.get("open"));
    show();
  }

  const make = (name, text, parent, more = {}) => {
    const node = Object.assign(document.createElement(name), more);
    if (text) node.textContent = text;
    parent?.append(node);
    return node;
  };

  function pairs(title, rows, parent) {
    if (!rows.length) return;
    make("h3", title, parent);
    const list = make("dl", "", parent);
    for (const [name, value] of rows) { make("dt", name, list); make("dd", value, list); }
  }

  /* Everything about one arm, in a dialog. */
  function open(arm) {
    const drawer = document.getElementById("drawer");
    if (!drawer || !Object.hasOwn(arms, arm)) return;
    const about = arms[arm], body = drawer.lastElementChild;
    opened = arm;
    document.getElementById("drawer-title").textContent = about.label;
    body.replaceChildren();
    make("span", about.verdict, make("p", "", body, { className: about.tone }), { className: "badge" });
    pairs("Why", about.why, body);
    pairs("Recovery, with its interval", about.recovery, body);
    pairs("Parameters", about.parameters, body);
    for (const [title, text] of about.texts) {
      make("h3", title, body);
      make("pre", text, body, { tabIndex: 0 });
      make("button", "Copy", body, { type: "button" }).dataset.copy = text;
    }
    pairs("Measures: mean ± standard deviation over seeds", page.measured.flatMap((name, at) => (about.measures[at] ? [[name, about.measures[at]]] : [])), body);
    if (!drawer.open) drawer.showModal();
    body.scrollTop = 0;
    show();
  }

  async function copy(text, button) {
    const old = button.dataset.name ??= button.textContent;
    try { await navigator.clipboard.writeText(text); } catch {
      const area = make("textarea", "", button.parentElement, { value: text });
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = old; }, 1500);
  }

  /* Hide the rows of a table that lack one of the words. */
  function filter(input) {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...input.closest("[data-table]").querySelectorAll("tbody tr")];
    for (const row of rows) {
      const text = row.dataset.text ??= [...row.cells].filter((cell) => !cell.querySelector("svg")).map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    const left = rows.filter((row) => !row.hidden).length;
    input.closest(".filter").querySelector("[role=status]").textContent = `${left} of ${rows.length}`;
  }

  /* The table of all trials, made when it is first looked at. */
  function listTrials(table) {
    if (table.tHead) return;
    const { titles, numeric, rows, curves, note } = page.trials;
    table.closest("[data-table]").querySelector("[role=status]").textContent = note;
    const columns = [...titles, "Curve"], head = table.createTHead().insertRow(), body = table.createTBody();
    for (const title of columns) {
      const cell = make("th", "", head, { scope: "col", className: numeric.includes(title) ? "n" : "" });
      if (title === "Curve") cell.textContent = title; else make("button", title, cell, { type: "button" });
    }
    for (const trial of unpack(rows)) {
      const row = body.insertRow();
      for (const title of titles) {
        const cell = make("td", trial[title], row, { className: numeric.includes(title) ? "n" : "" });
        cell.dataset.v = trial[title].replace("\u2212", "-");
      }
      sparkline(curves[trial.Trial], row.insertCell());
    }
  }

  /* A learning curve in the height of a line, on a logarithmic axis of its own. */
  function sparkline(curve, cell) {
    if (!curve || curve[0].length < 2) return; // One look is no curve.
    const [epochs, losses] = curve, logs = losses.map((loss) => Math.log(Math.max(loss, 1e-9)));
    const [low, high] = [Math.min(...logs), Math.max(...logs)], last = epochs.at(-1);
    const points = logs.map((at, n) => `${(4 + 112 * epochs[n] / last).toFixed(1)},${(21 - 18 * (at - low) / (high - low || 1)).toFixed(1)}`);
    const text = `Validation NLL ${losses[0]} after ${epochs[0]} epochs, ${losses.at(-1)} after ${last}`;
    cell.innerHTML = `<svg class="spark" viewBox="0 0 120 24" role="img"><title></title><polyline points="${points.join(" ")}"/></svg>`;
    cell.querySelector("title").textContent = text;
  }

  function toggle(arms) {
    const all = arms.every((arm) => selected.includes(arm));
    selected = all ? selected.filter((arm) => !arms.includes(arm)) : [...new Set([...selected, ...arms])];
    show();
  }

  function clear() {
    selected = [];
    for (const view of brushes) view.data("brush_store", []).runAsync();
    show();
  }

  function save(name, content, type) {
    const link = document.createElement("a");
    link.href = typeof content === "string" && content.startsWith("data:")
      ? content : URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    if (link.href.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const cell = (value) => value == null ? "" : /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;

  const exports_ = {
    csv(key) {
      const sets = page.figures[key].uses.map((name) => page.datasets[name]);
      const longest = Math.max(...sets.map((set) => set.length));
      const rows = sets.filter((set) => set.length > 2 || set.length === longest).flat(); // Not the guides.
      const names = [...new Set(rows.flatMap(Object.keys))].filter((name) => !name.startsWith("_"));
      save(`${key}.csv`, [names, ...rows.map((row) => names.map((name) => row[name]))]
        .map((row) => row.map(cell).join(",")).join("\n") + "\n", "text/csv");
    },
    async svg(key) {
      const drawn = new DOMParser().parseFromString(await views.get(key).background(css("--card")).toSVG(), "image/svg+xml");
      const svg = drawn.documentElement, [width, height] = ["width", "height"].map((side) => Number(svg.getAttribute(side)));
      const { lines, top } = headed(key, width), wide = width + 2 * EDGE, within = drawn.createElementNS(svg.namespaceURI, "g");
      within.setAttribute("transform", `translate(${EDGE},${top})`);
      within.append(...svg.childNodes);
      const back = drawn.createElementNS(svg.namespaceURI, "rect");
      for (const [name, value] of Object.entries({ width: wide, height: top + height, fill: css("--card") })) back.setAttribute(name, value);
      svg.append(back, within);
      lines.forEach(({ line, weight }, at) => {
        const text = Object.assign(drawn.createElementNS(svg.namespaceURI, "text"), { textContent: line });
        const style = { x: EDGE, y: 20 + 19 * at, fill: css("--ink"), "font-size": 14, "font-weight": weight, "font-family": look().font };
        for (const [name, value] of Object.entries(style)) text.setAttribute(name, value);
        svg.append(text);
      });
      svg.setAttribute("width", wide);
      svg.setAttribute("height", top + height);
      svg.setAttribute("viewBox", `0 0 ${wide} ${top + height}`);
      save(`${key}.svg`, new XMLSerializer().serializeToString(drawn), "image/svg+xml");
    },
    async png(key) {
      const drawn = await views.get(key).background(css("--card")).toCanvas(2);
      const { lines, top } = headed(key, drawn.width / 2), canvas = document.createElement("canvas");
      Object.assign(canvas, { width: drawn.width + 4 * EDGE, height: drawn.height + 2 * top });
      const brush = canvas.getContext("2d");
      brush.fillStyle = css("--card");
      brush.fillRect(0, 0, canvas.width, canvas.height);
      brush.drawImage(drawn, 2 * EDGE, 2 * top);
      lines.forEach(({ line, weight }, at) => {
        Object.assign(brush, { fillStyle: css("--ink"), font: `${weight} 28px ${look().font}` });
        brush.fillText(line, 2 * EDGE, 40 + 38 * at);
      });
      save(`${key}.png`, canvas.toDataURL("image/png"), "image/png");
    },
  };

  /* Title and legend of a figure in lines as wide as it, each with its weight, and the room that they need above. */
  function headed(key, width) {
    const brush = document.createElement("canvas").getContext("2d"), lines = [];
    const wrap = (text, weight) => {
      brush.font = `${weight} 14px ${look().font}`;
      for (const [at, word] of text.split(" ").entries()) {
        const longer = at ? `${lines.at(-1).line} ${word}` : "";
        if (at && brush.measureText(longer).width < width - 2 * EDGE) lines.at(-1).line = longer;
        else lines.push({ line: word, weight });
      }
    };
    wrap(page.figures[key].title, 600);
    if (page.figures[key].legend) wrap(page.figures[key].legend, 400);
    return { lines, top: 14 + 19 * lines.length };
  }

  function sort(button) {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const before = head.getAttribute("aria-sort"), number = head.classList.contains("n");
    const up = before ? before === "descending" : !number;
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const at = head.cellIndex, sign = up ? 1 : -1;
    const key = (row) => row.cells[at].dataset.v ?? "";
    const rows = [...body.rows].sort((a, b) => {
      const [p, q] = [key(a), key(b)];
      if (p === "" || q === "") return (p === "") - (q === "");
      return sign * (number && isFinite(p) && isFinite(q) ? p - q : p.localeCompare(q));
    });
    body.append(...rows);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { save: kind, arm, method, param, value, act, open: whose, copy: text } = button.dataset;
    if (kind) exports_[kind](button.closest("[data-figure]").dataset.figure);
    else if (whose) open(whose);
    else if (text !== undefined) copy(text, button);
    else if (arm) toggle([arm]);
    else if (method) toggle(page.methods[method]);
    else if (param) {
      const figure = button.closest("[data-figure]");
      (params[figure.dataset.figure] ??= {})[param] = value;
      for (const other of button.parentElement.children) other.setAttribute("aria-pressed", other === button);
      draw(figure.querySelector("[data-chart]"));
    } else if (act === "theme") { root.classList.toggle("dark"); drawAll(); }
    else if (act === "clear") clear();
    else if (act === "copy") copy(here(), button);
    else if (act === "close") document.getElementById("drawer").close();
    else if (act === "print") {
      const dark = root.classList.contains("dark");
      root.classList.remove("dark");
      drawAll().then(() => { window.print(); if (dark) { root.classList.add("dark"); drawAll(); } });
    } else if (button.closest("th")) sort(button);
  });

  document.addEventListener("input", (event) => {
    if (event.target.dataset.filter) filter(event.target);
  });

  document.addEventListener("toggle", (event) => {
    if (!event.target.open) return;
    event.target.querySelectorAll("[data-chart]").forEach(draw);
    if (event.target.dataset.list) listTrials(event.target.querySelector("table"));
  }, true);

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && selected.length && !document.getElementById("drawer")?.open) clear();
  });

  document.getElementById("drawer")?.addEventListener("close", () => { opened = ""; show(); });
  document.getElementById("drawer")?.addEventListener("click", (event) => {
    if (event.target === event.currentTarget) event.currentTarget.close();
  });

  let width = innerWidth, timer;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(timer);
    timer = setTimeout(drawAll, 150);
  });

  // On a phone the findings come first, each figure when it is asked for.
  if (innerWidth < 620) for (const fold of document.querySelectorAll(".grid .fold")) fold.open = false;
  addEventListener("hashchange", follow);
  // Vega measures text when it draws: the letters must be there.
  Promise.all(["400", "500", "600", "700"].map((weight) => document.fonts.load(`${weight} 12px Inter`))).then(drawAll).then(() => {
    follow();
    status.ready = true; root.dataset.charts = status.errors.length ? "failed" : "drawn";
  });
})();

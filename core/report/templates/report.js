"use strict";
(() => {
  const { runs, better, images } = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const stage = element("stage");
  const panes = [...stage.querySelectorAll(".pane")];
  const pictures = panes.map((pane) => pane.firstElementChild);
  const handles = [...stage.querySelectorAll(".handle")];
  const selects = [...element("panes").children];
  const body = element("list").tBodies[0];
  const rows = [...body.rows]; // rows[n] is that of images[n]
  const heads = [...element("list").tHead.rows[0].cells];
  const LOUPE = 24; // pixels along a side of a loupe
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  const state = {
    image: 0, run: 0, shown: [], // layers of the panes, from left to right
    cuts: [1 / 3, 2 / 3], zoom: 1, x: 0, y: 0, // the stage's x and y of the corner of the picture, in its widths and heights
    pointer: [0.5, 0.5], // where the loupes look, in the picture
    key: heads[1] ? heads[1].dataset.key : "", worst: true,
  };

  // ---- Layers: what each pane can show.

  const several = runs.length > 1;
  const titles = new Map([["lr", "LR"], ["bicubic", "Bicubic"]]);
  runs.forEach((run, n) => titles.set(`sr${n}`, several ? run : "Result"));
  titles.set("hr", "Truth");
  runs.forEach((run, n) => titles.set(`error${n}`, several ? `Error of ${run}` : "Error map"));

  const has = (layer) => layer in images[state.image].layers;

  function usualLayers() {
    const other = state.run ? 0 : 1;
    const wanted = several ? [`sr${other}`, `sr${state.run}`, "hr"] : ["bicubic", "sr0", "hr"];
    if (several && !state.run) wanted.splice(0, 2, "sr0", "sr1");
    return wanted.filter(has);
  }

  function fillSelects() {
    const there = [...titles].filter(([layer]) => has(layer));
    selects.forEach((select, n) => {
      select.replaceChildren(...there.map(([layer, title]) => new Option(title, layer)));
      select.value = state.shown[n] || "";
      select.hidden = n >= state.shown.length;
    });
  }

  // ---- The stage.

  function showImage(number) {
    state.image = clamp(number, 0, images.length - 1);
    const { name, size, layers } = images[state.image];
    element("name").textContent = name;
    element("place").textContent = "";
    rows.forEach((row, n) => n === state.image ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current"));
    if (!state.shown.length || !state.shown.every(has)) {
      state.shown = usualLayers();
      state.cuts = state.shown.length === 2 ? [1 / 2, 1] : [1 / 3, 2 / 3];
    }
    stage.style.setProperty("--ratio", size ? size[0] / size[1] : 1);
    element("nothing").hidden = Object.keys(layers).length > 0;
    fillSelects();
    showLayers();
    moveMarkers();
    prepareLoupes();
    if (size) tellSize();
  }

  function showLayers() {
    const { layers, name } = images[state.image];
    panes.forEach((pane, n) => {
      const layer = state.shown[n];
      pane.hidden = !layer;
      if (!layer) return pictures[n].removeAttribute("src");
      pictures[n].src = layers[layer];
      pictures[n].alt = `${titles.get(layer)} of ${name}`;
      pictures[n].classList.toggle("lr", layer === "lr");
    });
    const isError = state.shown.some((layer) => layer.startsWith("error"));
    element("error").setAttribute("aria-pressed", isError);
    element("error").disabled = !has(`error${state.run}`);
    element("legend").hidden = !isError;
    placeCuts();
  }

  function placeCuts() {
    const count = state.shown.length;
    const bounds = count === 3 ? [0, ...state.cuts, 1] : count === 2 ? [0, state.cuts[0], 1] : [0, 1];
    panes.forEach((pane, n) => {
      if (n >= count) return;
      pane.style.setProperty("--from", `${100 * bounds[n]}%`);
      pane.style.setProperty("--to", `${100 * bounds[n + 1]}%`);
    });
    handles.forEach((handle, n) => {
      handle.hidden = n >= count - 1;
      if (handle.hidden) return;
      const value = Math.round(100 * bounds[n + 1]);
      handle.style.left = `${100 * bounds[n + 1]}%`;
      handle.setAttribute("aria-valuenow", value);
      handle.setAttribute("aria-valuetext", `${value} %`);
      handle.setAttribute("aria-label", `Between ${titles.get(state.shown[n])} and ${titles.get(state.shown[n + 1])}`);
    });
  }

  function moveCut(n, value) {
    state.cuts[n] = clamp(value, 0, 1);
    if (state.shown.length === 3) state.cuts[1 - n] = n ? Math.min(state.cuts[0], state.cuts[1]) : Math.max(...state.cuts);
    placeCuts();
  }

  function toggleError() {
    const [result, error] = [`sr${state.run}`, `error${state.run}`];
    if (state.shown.some((layer) => layer.startsWith("error"))) state.shown = usualLayers();
    else if (has(error)) state.shown[Math.max(state.shown.indexOf(result), 0)] = error;
    fillSelects();
    showLayers();
  }

  const largestZoom = () => Math.max(8, 24 * ((images[state.image].size || [1])[0]) / stage.clientWidth);

  function zoomTo(zoom, x = 0.5, y = 0.5) { // keeps the point (x, y) of the stage where it is
    const next = clamp(zoom, 1, largestZoom());
    state.x = x - (x - state.x) * next / state.zoom;
    state.y = y - (y - state.y) * next / state.zoom;
    state.zoom = next;
    placePictures();
  }

  function placePictures() {
    state.x = clamp(state.x, 1 - state.zoom, 0);
    state.y = clamp(state.y, 1 - state.zoom, 0);
    stage.style.setProperty("--zoom", state.zoom);
    stage.style.setProperty("--x", `${100 * state.x}%`);
    stage.style.setProperty("--y", `${100 * state.y}%`);
    stage.classList.toggle("zoomed", state.zoom > 1);
    element("scale").textContent = `${Math.round(10 * state.zoom) / 10}×`;
  }

  // ---- Pointers: one moves a line or the picture, two zoom.

  const held = new Map(); // pointerId -> [x, y] of the stage
  let dragged = null; // the number of a line, "picture", or null

  function onStage(event) {
    const box = stage.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  function nearestCut(x) {
    const visible = handles.filter((handle) => !handle.hidden).map((_, n) => n);
    if (!visible.length) return null;
    return visible.reduce((best, n) => {
      const [ours, theirs] = [Math.abs(state.cuts[n] - x), Math.abs(state.cuts[best] - x)];
      return ours < theirs || (ours === theirs && x > state.cuts[n]) ? n : best; // of two at one place, that which can go there
    });
  }

  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    held.set(event.pointerId, onStage(event));
    stage.setPointerCapture(event.pointerId);
    const [x] = onStage(event);
    const line = nearestCut(x);
    const isNear = line !== null && Math.abs(state.cuts[line] - x) * stage.clientWidth < 20;
    dragged = held.size > 1 ? null : state.zoom > 1 && !isNear ? "picture" : line;
    stage.classList.add("dragging");
    if (isNear) handles[line].focus({ preventScroll: true, focusVisible: false });
    lookAt(event);
  });

  function lookAt(event) {
    const [x, y] = onStage(event);
    state.pointer = [(x - state.x) / state.zoom, (y - state.y) / state.zoom];
    drawLoupes();
  }

  stage.addEventListener("pointermove", (event) => {
    const [x, y] = onStage(event);
    lookAt(event);
    const before = held.get(event.pointerId);
    if (!before) return;
    const other = [...held].find(([id]) => id !== event.pointerId);
    if (other) {
      const [, [ox, oy]] = other;
      const distance = (a, b) => Math.hypot((a - ox) * stage.clientWidth, (b - oy) * stage.clientHeight);
      zoomTo(state.zoom * distance(x, y) / Math.max(distance(...before), 1), ox, oy);
    } else if (dragged === "picture") {
      state.x += x - before[0];
      state.y += y - before[1];
      placePictures();
    } else if (dragged !== null) {
      moveCut(dragged, x);
    }
    held.set(event.pointerId, [x, y]);
  });

  for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) {
    stage.addEventListener(type, (event) => {
      held.delete(event.pointerId);
      if (!held.size) stage.classList.remove("dragging");
      dragged = null;
    });
  }

  stage.addEventListener("dblclick", (event) => state.zoom > 1 ? zoomTo(1) : zoomTo(4, ...onStage(event)));
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // else the page scrolls; a pinch on a touchpad comes with it
    event.preventDefault();
    zoomTo(state.zoom * Math.exp(-event.deltaY / 200), ...onStage(event));
  }, { passive: false });

  handles.forEach((handle, n) => handle.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 0.1 : 0.01;
    const moves = {
      ArrowLeft: state.cuts[n] - step, ArrowDown: state.cuts[n] - step, ArrowRight: state.cuts[n] + step,
      ArrowUp: state.cuts[n] + step, Home: 0, End: 1,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    moveCut(n, moves[event.key]);
  }));

  // ---- Loupes: the same pixels of every layer.

  let loupes = [];

  function prepareLoupes() {
    const { layers } = images[state.image];
    loupes = [...titles].filter(([layer]) => layer in layers).map(([layer, title]) => {
      const figure = document.createElement("figure");
      const canvas = document.createElement("canvas");
      const caption = document.createElement("figcaption");
      canvas.width = canvas.height = 240;
      caption.textContent = caption.title = title;
      figure.append(canvas, caption);
      const picture = new Image();
      picture.onload = () => {
        tellSize();
        drawLoupes();
      };
      picture.src = layers[layer];
      return { figure, canvas, picture };
    });
    element("loupes").replaceChildren(...loupes.map(({ figure }) => figure));
  }

  const embedded = () => loupes.reduce( // the size that pictures of the result and the truth have in this page
    ([w, h], { picture }) => [Math.max(w, picture.naturalWidth), Math.max(h, picture.naturalHeight)], [1, 1]);

  function tellSize() {
    const { size } = images[state.image];
    const shrunk = Math.round(size[0] / embedded()[0]);
    const place = [...body.rows].indexOf(rows[state.image]) + 1;
    const note = shrunk > 1 && loupes.every(({ picture }) => picture.complete) ? `, shown at 1/${shrunk}` : "";
    element("place").textContent = `${place} of ${images.length} · ${size[0]} × ${size[1]}${note}`;
  }

  function drawLoupes() {
    if (!loupes.length) return;
    const [width, height] = embedded().map((side) => Math.min(LOUPE / side, 1)); // of the part, in the picture
    const left = clamp(state.pointer[0] - width / 2, 0, 1 - width);
    const top = clamp(state.pointer[1] - height / 2, 0, 1 - height);
    for (const { canvas, picture } of loupes) {
      if (!picture.complete || !picture.naturalWidth) continue;
      const [w, h] = [picture.naturalWidth, picture.naturalHeight];
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.drawImage(picture, left * w, top * h, width * w, height * h, 0, 0, canvas.width, canvas.height);
    }
  }

  // ---- The list.

  function fillCells() {
    rows.forEach((row, n) => {
      heads.slice(1).forEach((head, column) => {
        const [, text, difference, verdict] = images[n].cells[state.run][head.dataset.key];
        const small = document.createElement("span");
        small.className = `difference ${verdict}`;
        small.textContent = difference;
        row.cells[column + 1].replaceChildren(text, small);
      });
    });
  }

  function badness(number) {
    if (!state.key) return -number;
    const value = images[number].cells[state.run][state.key][0];
    if (value === null) return -Infinity;
    return { higher: -value, lower: value, "near 1": Math.abs(value - 1) }[better[state.key]];
  }

  function sort() {
    const names = new Intl.Collator(undefined, { numeric: true });
    const order = rows.map((_, n) => n).sort((a, b) => {
      if (!state.key) return names.compare(images[a].name, images[b].name);
      return badness(b) === badness(a) ? a - b : badness(b) - badness(a);
    });
    const missing = state.key ? order.filter((n) => badness(n) === -Infinity) : [];
    const present = order.filter((n) => !missing.includes(n));
    if (!state.worst) present.reverse();
    body.append(...[...present, ...missing].map((n) => rows[n]));
    for (const head of heads) {
      if (head.dataset.key !== state.key) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", state.worst ? "descending" : "ascending");
    }
  }

  function step(by) {
    const order = [...body.rows];
    const next = order[order.indexOf(rows[state.image]) + by];
    if (!next) return;
    showImage(Number(next.dataset.number));
    const list = body.closest(".list");
    const [row, box] = [next.getBoundingClientRect(), list.getBoundingClientRect()];
    if (row.top < box.top + 60) list.scrollTop += row.top - box.top - 60;
    if (row.bottom > box.bottom) list.scrollTop += row.bottom - box.bottom;
  }

  function moveMarkers() {
    for (const marker of document.querySelectorAll(".marker")) {
      const { key, low, high } = marker.dataset;
      const value = images[state.image].cells[state.run][key][0];
      const place = "log" in marker.dataset ? Math.log : Number;
      const x = (place(value) - place(low)) / (place(high) - place(low)) * marker.ownerSVGElement.viewBox.baseVal.width;
      marker.style.visibility = value === null ? "hidden" : "";
      marker.setAttribute("x1", x);
      marker.setAttribute("x2", x);
    }
  }

  heads.forEach((head) => head.firstElementChild.addEventListener("click", () => {
    state.worst = state.key === head.dataset.key ? !state.worst : true;
    state.key = head.dataset.key;
    sort();
    showImage(Number(body.rows[0].dataset.number));
    body.closest(".list").scrollTop = 0;
  }));
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) showImage(Number(row.dataset.number));
  });

  // ---- Buttons and keys.

  selects.forEach((select, n) => select.addEventListener("change", () => {
    state.shown[n] = select.value;
    showLayers();
  }));
  element("runs").addEventListener("change", (event) => {
    state.run = Number(event.target.value);
    state.shown = [];
    fillCells();
    sort();
    showImage(state.image);
  });
  const actions = {
    previous: () => step(-1), next: () => step(1), error: toggleError,
    in: () => zoomTo(2 * state.zoom), out: () => zoomTo(state.zoom / 2), fit: () => zoomTo(1),
  };
  for (const [id, action] of Object.entries(actions)) element(id).addEventListener("click", action);
  const keys = { j: "next", k: "previous", e: "error", "+": "in", "=": "in", "-": "out", 0: "fit" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input")) return;
    const action = keys[event.key.toLowerCase()];
    if (action) actions[action]();
  });

  fillCells();
  sort();
  showImage(Number(body.rows[0].dataset.number));
})();

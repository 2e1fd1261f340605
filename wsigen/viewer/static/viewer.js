// The page of `wsigen view`. OpenSeadragon draws the tiles; what a pathologist needs around it is here.
//
// Places are (x, y) in µm from the slide's upper left corner, and zoom is µm per CSS pixel of the screen, so that
// a view means the same on every slide of a case and in every window. OpenSeadragon's own unit, the "world", is
// the width of the case's first slide.

const MAGNIFICATIONS = [1.25, 2.5, 5, 10, 20, 40];
const UM_TIMES_MAGNIFICATION = 10; // 10× is 1 µm per pixel, as scanners count
const BLINK_MS = 700;
const MOST_PANES = 4;
const GRID_COLORS = ["#00a3ff", "#ff7a00", "#00b36b", "#c03bd0"];
const LEAST_SPACING = 6; // of a grid's lines, pixels of the screen; nearer ones would hide the slide
const SYNTHETIC = "Synthetic · not for diagnosis";
const KEYS = [
  ["+ −", "zoom"], ["← ↑ → ↓", "move"], [", .", "lower, higher magnification"], ["h", "whole slide"],
  ["v s c b o", "single, side by side, curtain, blink, opacity"], ["space", "hold to flip to the other slide"],
  ["1 … 9", "choose a slide of the case"], ["x", "swap the two slides"], ["[ ]", "previous, next case"],
  ["a", "annotations"], ["g", "patch grids"], ["m", "heat map of DAB"], ["p", "snapshot"], ["k", "copy a link to this view"], ["n", "new seed"],
  ["l i", "list of slides, information"], ["f", "full screen"], ["d", "dark or light"], ["?", "this list"],
];

const $ = (id) => document.getElementById(id);
const state = {
  cases: [], failures: [], seed: null,
  case: null, first: null, second: null, mode: "single",
  at: 0.5, // where the curtain is, as a share of the width
  opacity: 0.5, flipped: false, blinked: false,
  shapes: [], shapesShown: true, hidden: new Set(), // of classes
  grids: [], gridsShown: new Set(), // by name
  heatmap: null, // its colours
  heatShown: false, heatOpacity: 0.7,
};
let panes = [];
let leader = null; // the pane that the user moves; the others follow
let seen = null; // the view before a resize
let painting = false;
let blinking = null;

// ---- small things

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function say(text) {
  $("note").textContent = text;
  $("note").hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => ($("note").hidden = true), 4000);
}

function round(value, digits = 3) {
  return String(Number(value.toPrecision(digits)));
}

function length(um) {
  return um >= 1000 ? `${round(um / 1000)} mm` : `${round(um)} µm`;
}

async function fetchJson(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

const slides = () => state.case.slides;
const named = (name) => slides().find((slide) => slide.name === name);
const widthUm = () => slides()[0].width * slides()[0].mpp; // one world unit
const comparing = () => state.mode !== "single" && slides().length > 1;
const layered = () => comparing() && state.mode !== "side";

// ---- views: {x, y} of the centre in µm, and µm per pixel of the screen

function viewOf(pane) {
  const { viewport } = pane.viewer;
  const centre = viewport.getCenter(true);
  return {
    x: centre.x * widthUm(),
    y: centre.y * widthUm(),
    mpp: widthUm() / (viewport.getZoom(true) * viewport.getContainerSize().x),
  };
}

/** The nearest centre at which the slide's origin, and so its pixels, lie on whole pixels of the screen. */
function snapped(pane, { x, y, mpp }) {
  const size = pane.viewer.viewport.getContainerSize();
  const ratio = window.devicePixelRatio;
  const fit = (at, side) => (side / 2 - Math.round((side / 2 - at / mpp) * ratio) / ratio) * mpp;
  return { x: fit(x, size.x), y: fit(y, size.y), mpp };
}

const isSnapped = (pane, view) => {
  const { x, y } = snapped(pane, view);
  return Math.hypot(x - view.x, y - view.y) < 0.02 * view.mpp;
};

/** Whether every pixel of the slide, at some level, is shown by whole pixels of the screen. */
function onWholePixels(pane) {
  const view = viewOf(pane);
  const octave = Math.log2((slides()[0].mpp * window.devicePixelRatio) / view.mpp);
  return Math.abs(octave - Math.round(octave)) < 1e-4 && isSnapped(pane, view);
}

function setView(pane, { x, y, mpp }) {
  const { viewport } = pane.viewer;
  viewport.zoomTo(widthUm() / (mpp * viewport.getContainerSize().x), null, true);
  viewport.panTo(new OpenSeadragon.Point(x / widthUm(), y / widthUm()), true);
}

function showView(view) {
  seen = view;
  leader = panes[0];
  setView(leader, snapped(leader, view));
  follow();
  paint();
}

function wholeSlide() {
  const size = panes[0].viewer.viewport.getContainerSize();
  const [width, height] = [widthUm(), slides()[0].height * slides()[0].mpp];
  showView({ x: width / 2, y: height / 2, mpp: 1.05 * Math.max(width / size.x, height / size.y) });
}

function magnify(times) {
  showView({ ...viewOf(leader ?? panes[0]), mpp: UM_TIMES_MAGNIFICATION / times });
}

function stepMagnification(direction) {
  const now = UM_TIMES_MAGNIFICATION / viewOf(leader ?? panes[0]).mpp;
  const next = direction > 0
    ? MAGNIFICATIONS.find((m) => m > now * 1.01)
    : MAGNIFICATIONS.findLast((m) => m < now * 0.99);
  if (next) magnify(next);
}

function follow() {
  for (const pane of panes) {
    if (pane !== leader) setView(pane, viewOf(leader));
  }
}

// ---- panes: one OpenSeadragon each

function makePane(index, names) {
  const osd = element("div", { class: "osd" });
  const labels = [element("div", { class: "label" }), element("div", { class: "label right" })];
  const box = element("div", { class: "pane" }, osd, ...labels);
  $("panes").append(box);
  const computed = slides().some((slide) => slide.computed);
  const viewer = OpenSeadragon({
    element: osd,
    drawer: "canvas",
    showNavigationControl: false,
    showNavigator: index === 0,
    navigatorPosition: "BOTTOM_RIGHT",
    navigatorSizeRatio: 0.16,
    navigatorAutoFade: false,
    animationTime: 0.5,
    blendTime: 0,
    minZoomImageRatio: 0.3,
    maxZoomPixelRatio: 16,
    visibilityRatio: 0.2,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    imageLoaderLimit: computed ? 3 : 8, // few, so that what is computed next is what is looked at
    timeout: 3_600_000, // the first tile of a computed slide waits for its overview
    maxImageCacheCount: 500,
  });
  const pane = { box, viewer, labels, names, items: new Map(), heat: new Map(), heatLoading: 0 }; // layers by slide
  // OpenSeadragon draws tiles a pixel wider, against hairlines where they meet between two pixels of the screen.
  // On whole pixels there are none, and a wider tile would be blurred.
  viewer.drawer.minimumOverlapRequired = () => !onWholePixels(pane);
  const lead = () => (leader = pane);
  for (const event of ["canvas-press", "canvas-scroll", "canvas-pinch", "canvas-double-click"]) viewer.addHandler(event, lead);
  viewer.navigator?.addHandler("canvas-press", lead);
  viewer.addHandler("canvas-key", (event) => (event.preventDefaultAction = true)); // keys are ours
  // Before the frame is drawn, so that curtain and other panes do not lag behind.
  viewer.addHandler("viewport-change", () => {
    if (pane === leader) {
      seen = viewOf(pane);
      follow();
    }
    placeCurtain();
    paint();
  });
  viewer.addHandler("resize", () => seen && showView(seen)); // OpenSeadragon would change the zoom
  viewer.addHandler("animation-finish", () => {
    if (pane === leader && !isSnapped(pane, viewOf(pane))) showView(viewOf(pane)); // it came to rest anywhere
    remember();
  });
  viewer.addHandler("tile-load-failed", ({ message, tile }) =>
    say(`A tile of level ${tile.level} cannot be shown: ${message}`));
  osd.addEventListener("pointermove", (event) => showPosition(pane, event));
  osd.addEventListener("pointerleave", () => ($("position").textContent = ""));
  return pane;
}

async function fillPane(pane) {
  await Promise.all(pane.names.map((name) => new Promise((resolve) => {
    const slide = named(name);
    pane.viewer.addTiledImage({
      tileSource: `/slides/${encodeURIComponent(name)}.dzi?v=${slide.version}`,
      x: 0, y: 0, width: (slide.width * slide.mpp) / widthUm(),
      opacity: 0,
      success: ({ item }) => { pane.items.set(name, item); resolve(); },
      error: ({ message }) => { say(`${slide.title}: ${message}`); resolve(); },
    });
  })));
}

/** Load and show the heat maps of all slides that have one. */
async function loadHeat() {
  await Promise.all(panes.map(heatPane));
  setLayers();
}

async function heatPane(pane) {
  const wanted = pane.names.map(named).filter((slide) => slide.heatmap_um && !pane.heat.has(slide.name));
  await Promise.all(wanted.map((slide) => new Promise((resolve) => {
    pane.heat.set(slide.name, null); // until it is loaded
    pane.heatLoading += 1;
    const done = (item) => {
      if (item) pane.heat.set(slide.name, item);
      else pane.heat.delete(slide.name);
      pane.heatLoading -= 1;
      resolve();
    };
    pane.viewer.addTiledImage({
      tileSource: { type: "image", url: `/slides/${encodeURIComponent(slide.name)}.dab.png?v=${slide.version}` },
      x: 0, y: 0, width: slide.heatmap_um / widthUm(),
      opacity: 0,
      success: ({ item }) => done(item),
      error: ({ message }) => { say(`Heat map of ${slide.title}: ${message}`); done(null); },
    });
  })));
}

/** The layers of a pane that are drawn: [name of the slide, layer]. */
const layersOf = (pane) => [...pane.items, ...pane.heat].filter(([, item]) => item);

async function setPanes(lists) {
  const kept = panes.length && panes[0].case === state.case ? 1 : 0; // the first pane holds all slides
  for (const pane of panes.splice(kept)) {
    pane.viewer.destroy();
    pane.box.remove();
  }
  const added = lists.slice(kept).map((names, i) => makePane(kept + i, names));
  for (const pane of added) pane.case = state.case;
  panes.push(...added);
  leader = panes[0];
  await Promise.all(added.map(fillPane));
  if (state.heatShown) loadHeat(); // the slides do not wait for it
}

// ---- what is shown

/** Show the state: panes, layers, panels. Keeps the place that is looked at, unless another is given. */
async function show(view = null) {
  const turn = (show.turn = (show.turn ?? 0) + 1);
  const before = view ?? (panes.length ? viewOf(leader) : null);
  const all = slides().map((slide) => slide.name);
  const others = all.filter((name) => name !== state.first).slice(0, MOST_PANES - 1);
  await setPanes([all, ...(state.mode === "side" ? others.map((name) => [name]) : [])]);
  if (turn !== show.turn) return; // another choice was made meanwhile
  for (const pane of panes) pane.viewer.forceResize();
  if (before) showView(before);
  else wholeSlide();
  $("stage").dataset.mode = state.mode;
  setLayers();
  showPanels();
  clearInterval(blinking);
  if (state.mode === "blink") blinking = setInterval(() => { state.blinked = !state.blinked; setLayers(); }, BLINK_MS);
  remember();
}

/** Set the opacity and clip of every layer, and the labels that name them. */
function setLayers() {
  const [main, ...rest] = panes;
  if (!main) return;
  const flipped = state.flipped || (state.mode === "blink" && state.blinked);
  const top = slides().length > 1 ? state.second : null;
  const opacities = new Map([[state.first, 1]]);
  if (layered() && state.mode === "opacity") opacities.set(top, state.opacity);
  if (layered() && state.mode === "curtain") opacities.set(top, 1);
  if (flipped && top && state.mode !== "side") opacities.set(top, 1).set(state.first, state.mode === "curtain" ? 1 : 0);
  for (const [name, item] of main.items) {
    item.setPreload(name === top && layered());
    item.setOpacity(opacities.get(name) ?? 0);
  }
  if (main.items.has(top)) main.viewer.world.setItemIndex(main.items.get(top), main.items.size - 1);
  rest.forEach((pane) => pane.items.forEach((item) => item.setOpacity(1)));
  for (const pane of panes) {
    for (const [name, heat] of pane.heat) {
      if (!heat) continue;
      heat.setOpacity(state.heatShown ? state.heatOpacity * (pane.items.get(name)?.getOpacity() ?? 0) : 0);
      pane.viewer.world.setItemIndex(heat, pane.viewer.world.getItemCount() - 1);
    }
  }
  placeCurtain();
  showLabels(flipped);
  paint();
}

function showLabels(flipped) {
  const label = (node, slide) => {
    node.hidden = !slide;
    if (slide) node.replaceChildren(slide.stain, ...(slide.synthetic ? [element("em", {}, "synthetic")] : []));
  };
  const [first, second] = [named(state.first), named(state.second)];
  const split = layered() && (state.mode === "curtain" || state.mode === "opacity");
  const swapped = flipped && state.mode === "curtain";
  label(panes[0].labels[0], flipped ? second ?? first : first);
  label(panes[0].labels[1], split ? (swapped ? first : second) : null);
  for (const pane of panes.slice(1)) {
    label(pane.labels[0], named(pane.names[0]));
    label(pane.labels[1], null);
  }
}

/** Clip the two slides at the curtain: the first one left of it, the other one right of it. */
function placeCurtain() {
  const active = layered() && state.mode === "curtain";
  $("curtain").hidden = !active;
  const [main] = panes;
  if (!main) return;
  const { viewport } = main.viewer;
  const ratio = window.devicePixelRatio;
  const pixel = Math.round(state.at * viewport.getContainerSize().x * ratio) / ratio;
  $("curtain").style.left = `${pixel}px`;
  $("curtain").setAttribute("aria-valuenow", Math.round(100 * state.at));
  const [left, right] = state.flipped ? [state.second, state.first] : [state.first, state.second];
  for (const [name, item] of layersOf(main)) {
    const size = item.getContentSize();
    if (!active || ![left, right].includes(name)) {
      item.setClip(null);
      continue;
    }
    const edge = item.viewerElementToImageCoordinates(new OpenSeadragon.Point(pixel, 0)).x;
    const cut = Math.min(size.x, Math.max(0, edge));
    item.setClip(name === left
      ? new OpenSeadragon.Rect(0, 0, cut, size.y)
      : new OpenSeadragon.Rect(cut, 0, size.x - cut, size.y));
  }
}

function choose({ first = state.first, second = state.second, mode = state.mode } = {}) {
  const names = slides().map((slide) => slide.name);
  state.first = names.includes(first) ? first : names[0];
  state.second = names.includes(second) && second !== state.first ? second : names.find((n) => n !== state.first) ?? null;
  state.mode = names.length > 1 ? mode : "single";
  state.blinked = state.flipped = false;
}

/** Take a slide as the user means it: alone it is shown, in a comparison it is compared with the first. */
function pick(name) {
  if (comparing() && state.mode !== "side" && name !== state.first) choose({ second: name });
  else choose({ first: name });
  show();
}

async function openCase(which, choice = {}, view = null) {
  const same = state.case === which;
  state.case = which;
  choose(choice);
  if (!same) await loadShapes();
  state.grids = gridsOf(slides());
  await show(view);
}

// ---- the link: everything that is seen, in the address

function remember() {
  clearTimeout(remember.timer);
  remember.timer = setTimeout(() => history.replaceState(null, "", fragment()), 120);
}

function fragment() {
  const { x, y, mpp } = viewOf(leader ?? panes[0]);
  const facts = { slide: state.first, x: x.toFixed(2), y: y.toFixed(2), mpp: round(mpp, 6) };
  if (comparing()) Object.assign(facts, { mode: state.mode, with: state.second });
  if (state.mode === "curtain") facts.at = round(state.at, 4);
  if (state.mode === "opacity") facts.at = round(state.opacity, 4);
  return `#${new URLSearchParams(facts)}`;
}

/** Open what the address names; the first case where it names nothing that is there. */
async function restore() {
  const facts = new URLSearchParams(location.hash.slice(1));
  const name = facts.get("slide");
  const seed = /^seed:(\d+):/.exec(name ?? "")?.[1];
  if (seed && state.seed !== null && seed !== String(state.seed)) await loadCatalogue(seed);
  const found = state.cases.find((c) => c.slides.some((slide) => slide.name === name));
  if (name && !found) say(`No slide is called ${name}; this is the first one.`);
  const mode = KNOWN_MODES.includes(facts.get("mode")) ? facts.get("mode") : "single";
  const at = Number(facts.get("at") ?? 0.5);
  if (mode === "curtain" && at >= 0 && at <= 1) state.at = at;
  if (mode === "opacity" && at >= 0 && at <= 1) state.opacity = at;
  const view = Object.fromEntries(["x", "y", "mpp"].map((key) => [key, Number(facts.get(key) ?? NaN)]));
  const known = Object.values(view).every(Number.isFinite) && view.mpp > 0;
  const choice = { first: name, second: facts.get("with"), mode };
  if (state.cases.length) await openCase(found ?? state.cases[0], choice, known ? view : null);
}

async function copyLink() {
  history.replaceState(null, "", fragment());
  try {
    await navigator.clipboard.writeText(location.href);
    say("Link copied.");
  } catch {
    say("The link is in the address bar.");
  }
}

// ---- annotations

async function loadShapes() {
  state.shapes = [];
  for (const slide of slides()) {
    for (const title of slide.overlays) {
      const url = `/overlays/${encodeURIComponent(slide.name)}/${encodeURIComponent(title)}`;
      try {
        state.shapes.push(...(await fetchJson(url)).map((shape) => prepare(shape, slide.mpp)));
      } catch (error) {
        say(`${title}: ${error.message}`);
      }
    }
  }
}

function prepare(shape, mpp) {
  const points = shape.parts.flat();
  const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
  const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
  const most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
  return { ...shape, mpp, box: [least(xs), least(ys), most(xs), most(ys)], path: null };
}

function pathOf(shape) {
  if (shape.path) return shape.path;
  const path = new Path2D();
  for (const part of shape.parts) {
    part.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    if (shape.kind === "polygon") path.closePath();
  }
  return (shape.path = path);
}

/** Draw annotations and patch grids on the canvas over the panes. */
function drawShapes() {
  const canvas = $("shapes");
  const grids = state.grids.filter((grid) => state.gridsShown.has(grid.name));
  const shown = grids.length > 0 || (state.shapesShown && state.shapes.length > 0);
  canvas.hidden = !shown;
  if (!shown) return;
  const ratio = window.devicePixelRatio;
  const stage = $("stage").getBoundingClientRect();
  [canvas.width, canvas.height] = [Math.round(stage.width * ratio), Math.round(stage.height * ratio)];
  const context = canvas.getContext("2d");
  for (const pane of panes) {
    const box = pane.box.getBoundingClientRect();
    context.save();
    context.scale(ratio, ratio);
    context.translate(box.left - stage.left, box.top - stage.top);
    context.beginPath();
    context.rect(0, 0, box.width, box.height);
    context.clip();
    if (state.shapesShown) drawShapesOf(context, viewOf(pane), box);
    for (const grid of grids) drawGrid(context, grid, viewOf(pane), box);
    context.restore();
  }
}

function drawShapesOf(context, view, box) {
  const before = context.getTransform();
  for (const shape of state.shapes) {
    if (state.hidden.has(shape.class)) continue;
    const scale = shape.mpp / view.mpp; // pixels of the screen per pixel of the slide
    const [left, top] = [box.width / 2 - view.x / view.mpp, box.height / 2 - view.y / view.mpp];
    const [x0, y0, x1, y1] = shape.box;
    if (left + x1 * scale < -9 || top + y1 * scale < -9 || left + x0 * scale > box.width + 9 || top + y0 * scale > box.height + 9) continue;
    context.setTransform(before.translate(left, top).scale(scale));
    drawShape(context, shape, scale);
  }
  context.setTransform(before);
}

function drawShape(context, shape, scale) {
  context.strokeStyle = context.fillStyle = shape.color;
  context.lineWidth = 2 / scale;
  const [x0, y0, x1, y1] = shape.box;
  if (shape.kind === "point") {
    for (const [x, y] of shape.parts[0]) {
      context.beginPath();
      context.arc(x, y, 4 / scale, 0, 2 * Math.PI);
      context.fill();
    }
  } else if (Math.max(x1 - x0, y1 - y0) * scale < 2) {
    context.fillRect(x0, y0, 2 / scale, 2 / scale); // thousands of cells, far out
  } else {
    if (shape.kind === "polygon") {
      context.globalAlpha = 0.12;
      context.fill(pathOf(shape), "evenodd");
      context.globalAlpha = 1;
    }
    context.stroke(pathOf(shape));
  }
}

// ---- patch grids: where the sampler's patches met, as the provenance of the case's slides says

/** The grids of all slides of a case: those of the H&E are shown on the IHC slide too, as annotations are. */
function gridsOf(all) {
  const every = all.flatMap(({ grids, mpp, width, height }) => grids.map((grid) => ({ ...grid, mpp, width, height })));
  return every.map((grid, i) => ({ ...grid, color: GRID_COLORS[i % GRID_COLORS.length] }));
}

function drawGrid(context, grid, view, box) {
  const scale = grid.mpp / view.mpp; // pixels of the screen per pixel of the slide
  const ratio = window.devicePixelRatio;
  const [left, top] = [box.width / 2 - view.x / view.mpp, box.height / 2 - view.y / view.mpp];
  const clip = (at, side) => Math.min(side, Math.max(0, at));
  const [x0, x1] = [clip(left, box.width), clip(left + grid.width * scale, box.width)];
  const [y0, y1] = [clip(top, box.height), clip(top + grid.height * scale, box.height)];
  context.fillStyle = grid.color;
  // Between two pixels of the slide, one pixel of the screen on each side.
  const snap = (at) => Math.round(at * ratio) / ratio - 1;
  for (const x of linesOf(grid.cols, grid.pitch, grid.width, scale, -left, box.width)) context.fillRect(snap(left + x * scale), y0, 2, y1 - y0);
  for (const y of linesOf(grid.rows, grid.pitch, grid.height, scale, -top, box.height)) context.fillRect(x0, snap(top + y * scale), x1 - x0, 2);
}

/** The lines inside a slide that are on the screen, in pixels of the slide; none where they would lie too close. */
function linesOf(phases, pitch, side, scale, from, length) {
  if ((pitch / phases.length) * scale < LEAST_SPACING) return [];
  const [first, last] = [Math.max(1, from / scale), Math.min(side - 1, (from + length) / scale)];
  return phases.flatMap((phase) => {
    const start = phase + Math.ceil((first - phase) / pitch) * pitch;
    return Array.from({ length: Math.max(0, Math.floor((last - start) / pitch) + 1) }, (_, i) => start + i * pitch);
  });
}

function showGrids() {
  if (!state.grids.length) return [];
  const rows = state.grids.map(({ name, color, pitch }) => switchRow(name, `${pitch} px`, color, state.gridsShown.has(name), (on) => {
    if (on) state.gridsShown.add(name);
    else state.gridsShown.delete(name);
    paint();
  }));
  return [element("h2", {}, "Patch grids"), ...rows];
}

function toggleGrids() {
  if (!state.grids.length) return say("The provenance of this case names no patch grids.");
  const names = state.grids.map((grid) => grid.name);
  const on = !names.some((name) => state.gridsShown.has(name));
  for (const name of names) state.gridsShown[on ? "add" : "delete"](name);
  showPanels();
  paint();
}

// ---- heat map of DAB

const heatable = () => slides().some((slide) => slide.heatmap_um);
/** Whether a heat map is among what is looked at. */
const heatSeen = () => panes.some((pane) => [...pane.heat.values()].some((heat) => heat?.getOpacity() > 0));
const heatRange = () => `${state.heatmap.low}–${state.heatmap.high} OD`;

async function setHeat(on) {
  if (on && !heatable()) return say("No IHC slide of this case has a heat map.");
  state.heatShown = on;
  showPanels();
  if (on) await loadHeat();
  else setLayers();
}

function showHeat() {
  if (!heatable()) return [];
  return [element("h2", {}, "DAB"), switchRow("Heat map", heatRange(), state.heatmap.colors.at(-2), state.heatShown, setHeat)];
}

// ---- around the slide

/** Bring everything that depends on the view up to date, once a frame. */
function paint() {
  if (painting) return;
  painting = true;
  requestAnimationFrame(() => {
    painting = false;
    if (!panes.length || !panes[0].items.size) return;
    drawShapes();
    showScale();
  });
}

function scaleOf(mpp) {
  const most = 150 * mpp;
  const power = 10 ** Math.floor(Math.log10(most));
  const um = [5, 2, 1].map((n) => n * power).find((n) => n <= most);
  return { um, pixels: um / mpp };
}

function showScale() {
  const { mpp } = viewOf(leader ?? panes[0]);
  const { um, pixels } = scaleOf(mpp);
  $("scale-text").textContent = length(um);
  $("scale-bar").style.width = `${pixels}px`;
  const times = UM_TIMES_MAGNIFICATION / mpp;
  $("magnification").textContent = `${round(times)}×`;
  $("mpp").textContent = `${round(mpp)} µm/px on the screen, ${round(named(state.first).mpp, 4)} µm/px in the slide`;
  for (const button of $("magnifications").children) {
    button.classList.toggle("on", Math.abs(Number(button.dataset.times) / times - 1) < 0.005);
  }
}

function showPosition(pane, event) {
  const box = pane.box.getBoundingClientRect();
  const view = viewOf(pane);
  const x = view.x + (event.clientX - box.left - box.width / 2) * view.mpp;
  const y = view.y + (event.clientY - box.top - box.height / 2) * view.mpp;
  const { mpp } = named(state.first);
  $("position").textContent = `x ${x.toFixed(1)} µm, y ${y.toFixed(1)} µm · pixel ${Math.floor(x / mpp)}, ${Math.floor(y / mpp)}`;
}

function showBusy() {
  const jobs = panes.reduce((sum, pane) => sum + pane.viewer.imageLoader.jobsInProgress, 0);
  const visible = panes.flatMap(layersOf).map(([, item]) => item).filter((item) => item.getOpacity() > 0);
  const heating = panes.some((pane) => pane.heatLoading);
  const loaded = visible.length > 0 && !heating && visible.every((item) => item.getFullyLoaded());
  const computing = jobs > 0 && slides().some((slide) => slide.computed);
  $("stage").setAttribute("aria-busy", String(!loaded));
  $("busy").hidden = !computing && !heating;
  $("busy").textContent = loaded ? "" : heating ? "Computing the heat map …" : `Computing ${jobs} ${jobs === 1 ? "tile" : "tiles"} …`;
}

function showPanels() {
  const slide = named(state.first);
  const synthetic = slides().some((s) => s.synthetic);
  $("title").textContent = slides().length > 1 ? state.case.title : slide.title;
  document.title = `${state.case.title} · wsigen`;
  $("badge").hidden = !synthetic;
  $("seed").hidden = state.seed === null;
  for (const button of $("modes").children) {
    button.classList.toggle("on", button.dataset.mode === state.mode);
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", button.dataset.mode === state.mode);
    button.disabled = slides().length < 2 && button.dataset.mode !== "single";
  }
  $("opacity").hidden = !(layered() && state.mode === "opacity");
  $("opacity-name").textContent = named(state.second)?.stain ?? "";
  $("opacity").querySelector("input").value = 100 * state.opacity;
  $("heat").hidden = !(state.heatShown && heatable());
  showList();
  showInfo(slide);
}

function showList() {
  const thumb = (slide) => {
    const level = Math.min(8, Math.ceil(Math.log2(Math.max(slide.width, slide.height)))); // one tile of at most 256 px
    const shown = [state.first, ...(comparing() ? [state.second] : [])].includes(slide.name);
    const source = `/slides/${encodeURIComponent(slide.name)}_files/${Math.min(level, 7)}/0_0.jpeg?v=${slide.version}`;
    const attributes = { class: shown ? "thumb on" : "thumb", title: slide.title, onclick: () => openSlide(slide.name) };
    return element("button", attributes, element("img", { src: source, alt: "", loading: "lazy" }), slide.stain);
  };
  const cases = state.cases.map((c) => element("div", { class: c === state.case ? "case on" : "case" },
    element("strong", { title: c.title }, c.title), element("div", { class: "thumbs" }, ...c.slides.map(thumb))));
  const failures = state.failures.map((f) => element("p", {}, element("b", {}, f.slide), ` ${f.reason}`));
  const left = failures.length ? [element("h2", {}, "Cannot be shown"), element("div", { class: "failures" }, ...failures)] : [];
  $("list").replaceChildren(...cases, ...left);
}

function openSlide(name) {
  const which = state.cases.find((c) => c.slides.some((slide) => slide.name === name));
  if (which === state.case) pick(name);
  else openCase(which, { first: name, mode: state.mode });
  if (window.innerWidth <= 800) toggle("list", false);
}

function table(rows) {
  return element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function showInfo(slide) {
  const size = `${slide.width} × ${slide.height} px`;
  const extent = `${length(slide.width * slide.mpp)} × ${length(slide.height * slide.mpp)}`;
  const scan = `${round(slide.mpp, 4)} µm/px (${round(UM_TIMES_MAGNIFICATION / slide.mpp)}×)`;
  const facts = Object.entries(slide.provenance);
  const computed = slide.computed ? "Nobody has made this slide: its pixels are computed where you look." : null;
  const parts = [
    ...(slide.synthetic ? [element("p", { class: "notice" }, slide.provenance.notice ?? SYNTHETIC)] : []),
    ...(computed ? [element("p", {}, computed)] : []),
    element("h2", {}, "Slide"),
    table([["name", slide.title], ["stain", slide.stain], ["size", size], ["extent", extent], ["resolution", scan]]),
    ...showHeat(),
    ...showGrids(),
    ...showClasses(),
    element("h2", {}, "Provenance"),
    facts.length ? table(facts) : element("p", {}, "None: wsigen did not write this slide."),
  ];
  $("info").replaceChildren(...parts);
}

function showClasses() {
  const classes = new Map();
  for (const shape of state.shapes) {
    const known = classes.get(shape.class) ?? { color: shape.color, count: 0 };
    classes.set(shape.class, { ...known, count: known.count + 1 });
  }
  if (!classes.size) return [];
  const rows = [...classes].map(([name, { color, count }]) => {
    return switchRow(name, String(count), color, !state.hidden.has(name), (on) => {
      if (on) state.hidden.delete(name);
      else state.hidden.add(name);
      paint();
    });
  });
  return [element("h2", {}, "Annotations"), ...rows];
}

function switchRow(name, note, color, on, change) {
  const box = element("input", { type: "checkbox", checked: on, onchange: (event) => change(event.target.checked) });
  return element("label", { class: "class" }, box, element("i", { style: `background:${color}` }),
    element("span", {}, name), element("small", {}, note));
}

function toggle(panel, open = null) {
  const closed = document.querySelector("main").classList.toggle(`no-${panel}`, open === null ? undefined : !open);
  if (!closed && window.innerWidth <= 800) { // one drawer at a time
    document.querySelector("main").classList.add(panel === "list" ? "no-info" : "no-list");
  }
}

// ---- snapshot

/** Draw what is seen, with scale bar and a line that says what it is, onto one canvas. */
function picture() {
  const ratio = window.devicePixelRatio;
  const stage = $("stage").getBoundingClientRect();
  const line = 30;
  const canvas = element("canvas", { width: Math.round(stage.width * ratio), height: Math.round((stage.height + line) * ratio) });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (const pane of panes) {
    const box = pane.box.getBoundingClientRect();
    const at = [(box.left - stage.left) * ratio, (box.top - stage.top) * ratio];
    context.drawImage(pane.viewer.drawer.canvas, Math.round(at[0]), Math.round(at[1]));
  }
  if (!$("shapes").hidden) context.drawImage($("shapes"), 0, 0);
  context.scale(ratio, ratio);
  if (!$("curtain").hidden) {
    context.fillRect(parseFloat($("curtain").style.left) - 1, 0, 2, stage.height);
  }
  drawCaption(context, stage.width, stage.height, line);
  return canvas;
}

function drawCaption(context, width, height, line) {
  const { mpp } = viewOf(leader ?? panes[0]);
  const { um, pixels } = scaleOf(mpp);
  const [font, middle] = ["13px system-ui, sans-serif", height + line / 2];
  context.fillStyle = "rgba(255, 255, 255, .85)";
  context.fillRect(12, height - 46, pixels + 20, 36);
  context.fillStyle = "#000";
  context.font = font;
  context.textAlign = "center";
  context.fillText(length(um), 22 + pixels / 2, height - 28);
  context.fillRect(22, height - 21, pixels, 4);
  context.textAlign = "left";
  context.textBaseline = "middle";
  const shown = panes.length > 1 ? slides().slice(0, MOST_PANES) : [named(state.first), ...(layered() ? [named(state.second)] : [])];
  const stains = shown.map((slide) => slide.stain).join(" | ");
  const warning = shown.some((slide) => slide.synthetic) ? `${SYNTHETIC} · ` : "";
  const heat = heatSeen() ? ` · heat map: DAB ${heatRange()}` : "";
  context.fillText(`${warning}${state.case.title} · ${stains} · ${round(mpp)} µm/px${heat}`, 12, middle, width - 24);
}

function saveSnapshot() {
  const { x, y, mpp } = viewOf(leader ?? panes[0]);
  const name = `${state.first.replaceAll(":", "-")}_x${x.toFixed(0)}_y${y.toFixed(0)}_${round(UM_TIMES_MAGNIFICATION / mpp)}x.png`;
  picture().toBlob((blob) => {
    const url = URL.createObjectURL(blob);
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }, "image/png");
}

// ---- controls

const KNOWN_MODES = ["single", "side", "curtain", "blink", "opacity"];

function setMode(mode) {
  choose({ mode });
  show();
}

function flip(on) {
  if (state.flipped === on || slides().length < 2) return;
  state.flipped = on;
  setLayers();
}

/** The theme that was chosen before; null where none was, or where the browser keeps nothing for frames. */
function chosenTheme(theme = null) {
  try {
    if (theme) localStorage.setItem("wsigen-theme", theme);
    return localStorage.getItem("wsigen-theme");
  } catch {
    return null;
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  chosenTheme(theme);
}

function startTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const obey = () => (document.documentElement.dataset.theme = chosenTheme() ?? (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", obey);
  obey();
}

function neighbour(step) {
  const next = state.cases[state.cases.indexOf(state.case) + step];
  if (next) openCase(next, { mode: state.mode });
}

function newSeed() {
  if (state.seed === null) return;
  const seed = Math.floor(Math.random() * 2 ** 31);
  const facts = new URLSearchParams(fragment().slice(1));
  const stain = state.first.startsWith("seed:") ? state.first.split(":")[2] : "HE";
  facts.set("slide", `seed:${seed}:${stain}`);
  if (facts.get("with")) facts.set("with", facts.get("with").replace(/^seed:\d+:/, `seed:${seed}:`));
  location.hash = facts; // opens it, and can be undone by going back
}

function move(dx, dy) {
  leader = leader ?? panes[0];
  const { viewport } = leader.viewer;
  const bounds = viewport.getBounds();
  viewport.panBy(new OpenSeadragon.Point(dx * 0.2 * bounds.width, dy * 0.2 * bounds.height));
}

function zoom(factor) {
  (leader ?? panes[0]).viewer.viewport.zoomBy(factor);
}

const ACTIONS = {
  "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), "_": () => zoom(1 / 1.4),
  ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, -1), ArrowDown: () => move(0, 1),
  ",": () => stepMagnification(-1), ".": () => stepMagnification(1), h: wholeSlide, 0: wholeSlide,
  v: () => setMode("single"), s: () => setMode("side"), c: () => setMode("curtain"), b: () => setMode("blink"), o: () => setMode("opacity"),
  " ": () => flip(true), x: () => { choose({ first: state.second, second: state.first }); show(); },
  "[": () => neighbour(-1), "]": () => neighbour(1), n: newSeed,
  a: () => { state.shapesShown = !state.shapesShown; paint(); },
  g: toggleGrids, m: () => setHeat(!state.heatShown),
  p: saveSnapshot, k: copyLink, l: () => toggle("list"), i: () => toggle("info"),
  f: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
  d: () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
  "?": () => $("keys").showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input") || $("keys").open || !panes.length) return;
  if (event.target === $("curtain") && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
    moveCurtain(state.at + (event.key === "ArrowLeft" ? -0.01 : 0.01));
    event.preventDefault();
    return;
  }
  const digit = /^[1-9]$/.test(event.key) ? slides()[Number(event.key) - 1] : null;
  const action = digit ? () => pick(digit.name) : ACTIONS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function moveCurtain(at) {
  state.at = Math.min(1, Math.max(0, at));
  placeCurtain();
  remember();
}

function dragCurtain(event) {
  const box = $("stage").getBoundingClientRect();
  $("curtain").setPointerCapture(event.pointerId);
  $("curtain").onpointermove = (moved) => moveCurtain((moved.clientX - box.left) / box.width);
  $("curtain").onpointerup = $("curtain").onpointercancel = () => ($("curtain").onpointermove = null);
}

function connect() {
  for (const times of MAGNIFICATIONS) {
    $("magnifications").append(element("button", { "data-times": times, onclick: () => magnify(times) }, `${times}×`));
  }
  $("magnifications").append(element("button", { title: "Whole slide (h)", onclick: wholeSlide }, "Fit"));
  for (const button of $("modes").children) button.addEventListener("click", () => setMode(button.dataset.mode));
  const clicks = {
    link: copyLink, snapshot: saveSnapshot, seed: newSeed, theme: ACTIONS.d, help: ACTIONS["?"],
    "toggle-list": () => toggle("list"), "toggle-info": () => toggle("info"),
  };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  $("opacity").querySelector("input").addEventListener("input", (event) => {
    state.opacity = event.target.value / 100;
    setLayers();
    remember();
  });
  $("heat").querySelector("input").addEventListener("input", (event) => {
    state.heatOpacity = event.target.value / 100;
    setLayers();
  });
  $("curtain").addEventListener("pointerdown", dragCurtain);
  $("keys").append(element("h1", {}, "Keyboard"), element("p", {}), element("dl", {}, ...KEYS.flatMap(([keys, what]) =>
    [element("dt", {}, element("kbd", {}, keys)), element("dd", {}, what)])));
  $("keys").addEventListener("click", () => $("keys").close());
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", (event) => event.key === " " && flip(false));
  window.addEventListener("hashchange", restore);
  window.addEventListener("resize", paint);
  setInterval(() => state.case && showBusy(), 150);
}

async function loadCatalogue(seed = null) {
  const found = await fetchJson(seed === null ? "/catalogue.json" : `/catalogue.json?seed=${seed}`);
  Object.assign(state, { cases: found.cases, failures: found.failures, seed: found.seed, heatmap: found.heatmap });
  $("heat-low").textContent = found.heatmap.low;
  $("heat-high").textContent = `${found.heatmap.high} OD`;
  $("heat-colors").style.background = `linear-gradient(to right, ${found.heatmap.colors})`;
}

async function start() {
  startTheme();
  connect();
  if (window.innerWidth <= 800) document.querySelector("main").classList.add("no-list", "no-info");
  const seed = /slide=seed(?::|%3A)(\d+)/i.exec(location.hash)?.[1] ?? null;
  try {
    await loadCatalogue();
    if (seed !== null && state.seed !== null && seed !== String(state.seed)) await loadCatalogue(seed);
    await restore();
  } catch (error) {
    say(`The slides cannot be listed: ${error.message}`);
  }
}

start();

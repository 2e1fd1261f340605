// The page of `wsigen study`: one item after the other. The server knows where the reader is; nothing is kept here.
// An answer is shown as given only when the server has it on disk.

const $ = (id) => document.getElementById(id);
const LETTERS = "ABCDEFGHIJ";
const TITLES = { slider: "Real or synthetic?", "2afc": "Which is real?", quality: "Which is best?", paired: "One tissue?" };
const MOVES = ["canvas-press", "canvas-scroll", "canvas-pinch", "canvas-double-click"]; // of the reader
const HELP = {
  slider: ["Move the slider: 0 is certainly synthetic, 100 certainly real. Then press Next."],
  "2afc": ["Of two images one is of a real slide, the other synthetic. Say which one is real."],
  quality: ["An H&E image stands beside several synthetic stains of it. Answer every question, then press Next."],
  paired: ["An H&E and an IHC image show the same place, or two different ones. Say which."],
};
let reader = null;
let study = null;
let viewers = [];
let keys = {}; // key to what it does, of the item that is shown
let ticking = null;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

async function ask(path, sent = null) {
  const how = sent === null ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(sent),
  };
  const response = await fetch(`/readers/${encodeURIComponent(reader)}${path}`, how);
  if (!response.ok) throw Object.assign(new Error(await response.text()), { status: response.status });
  return response.json();
}

/** Ask until the server answers: it may be started anew meanwhile, and an answer that it has is not stored twice. */
async function insist(path, sent = null) {
  for (let wait = 500; ; wait = Math.min(wait * 2, 8000)) {
    try {
      return await ask(path, sent);
    } catch (error) {
      if (error.status && error.status < 500) throw error;
      say(error.status ? error.message : "The server does not answer; trying again. Nothing is lost.");
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

function say(text) {
  const old = document.querySelector(".error");
  if (old) old.textContent = text;
  else $("footer").append(element("p", { class: "error question", role: "alert" }, text));
}

function clear() {
  clearInterval(ticking);
  keys = {};
  for (const viewer of viewers.splice(0)) viewer.destroy();
  $("main").replaceChildren();
  $("main").className = "";
  $("footer").replaceChildren();
  $("footer").hidden = false;
  $("clock").hidden = true;
}

function card(...children) {
  clear();
  $("main").className = "text";
  $("main").append(element("div", { class: "card" }, ...children));
  $("footer").hidden = true;
}

// ---- before and after

function login(problem = "") {
  $("count").textContent = "";
  const input = element("input", { id: "code", "aria-label": "Code", autocomplete: "off", autocapitalize: "characters", spellcheck: "false", placeholder: "Your code" });
  const enter = async (event) => {
    event.preventDefault();
    reader = input.value.trim().toUpperCase();
    if (reader) await begin();
  };
  card(
    element("h1", {}, "Reader study"),
    element("p", {}, "Enter the code that you were given. You may stop at any time: with the same code you continue where you stopped."),
    element("form", { onsubmit: enter }, input, element("button", { class: "main" }, "Enter")),
    element("p", { class: "error", role: "alert" }, problem),
  );
  input.focus();
}

async function begin() {
  try {
    study = await ask("");
  } catch (error) {
    return login(error.status === 404 ? `No reader has the code ${reader}; check it, or ask whoever gave it to you.` : "The server does not answer; try again.");
  }
  location.hash = reader;
  $("title").textContent = TITLES[study.kind];
  if (study.done === study.total) return next();
  const left = study.total - study.done;
  const time = study.seconds ? [`The images of an item are shown for ${study.seconds} seconds; take your time for the answer after that.`] : [];
  const training = study.done < study.training ? [`Training comes first, ${study.training - study.done} of them: you are told what was right, and it does not count.`] : [];
  const lines = [
    ...HELP[study.kind], `${left} items ${study.done ? "are left" : "in all"}; every answer is final.`, ...training, ...time,
    "Zoom with the wheel or two fingers, move by dragging; double-click for a closer look, h for the whole image.",
    `Images are at ${study.mpp} µm/px: pixel by pixel is ${Math.round(100 / study.mpp) / 10}×.`,
  ];
  card(
    element("h1", {}, TITLES[study.kind]),
    element("ul", {}, ...lines.map((line) => element("li", {}, line))),
    element("button", { class: "main", id: "start", onclick: next }, study.done ? "Continue" : "Start"),
  );
  keys.Enter = next;
}

function finish() {
  location.hash = "";
  $("count").textContent = "";
  card(element("h1", {}, "Thank you"), element("p", { id: "end" }, "All items are answered and stored. You can close this page."));
}

// ---- an item

async function next() {
  const item = await insist("/item");
  clear();
  $("progress").value = item.done / item.total;
  if (item.number === null) return finish();
  $("count").textContent = `${item.number + 1} of ${item.total}`;
  $("training").hidden = !item.training;
  const codes = [...(item.source ? [item.source] : []), ...item.choices];
  const labels = labelsOf(item);
  $("main").dataset.number = item.number;
  const panes = codes.map((code, i) => pane(code, labels[i]));
  const asked = question(item, panes); // disabled until the images are there
  arrange(); // before the images, so that all are shown at the same scale
  const shown = panes.map(show);
  if (item.source) synchronise();
  try {
    await Promise.all(shown);
  } catch (problem) {
    return say(`${problem.message} Reload the page.`);
  }
  asked.start();
}

/** Put the panes into as many columns as make the images largest. */
function arrange() {
  const { clientWidth: width, clientHeight: height } = $("main");
  const count = document.querySelectorAll(".pane").length;
  const side = (columns) => Math.min(width / columns, height / Math.ceil(count / columns));
  const columns = Array.from({ length: count }, (_, i) => i + 1).reduce((a, b) => (side(b) > side(a) ? b : a), 1);
  $("main").style.setProperty("--columns", columns);
}

function labelsOf(item) {
  if (study.kind === "slider") return [""];
  if (study.kind === "2afc") return ["A", "B"];
  const names = study.kind === "paired" ? ["IHC"] : [...LETTERS].slice(0, item.choices.length);
  return ["H&E", ...names];
}

function pane(code, label) {
  const url = `/readers/${encodeURIComponent(reader)}/images/${code}.png`;
  const name = label ? [element("b", {}, label)] : [];
  const box = element("div", { class: "pane", "data-image": url }, element("div", { class: "osd" }), ...name);
  $("main").append(box);
  return box;
}

/** Show the image of a pane; resolves when it is drawn. */
function show(box) {
  const viewer = OpenSeadragon({
    element: box.firstChild,
    drawer: "canvas",
    showNavigationControl: false,
    animationTime: 0.4,
    minZoomImageRatio: 0.9,
    maxZoomPixelRatio: 8,
    visibilityRatio: 0.5,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    tileSources: { type: "image", url: box.dataset.image },
  });
  viewer.addHandler("canvas-key", (event) => (event.preventDefaultAction = true)); // keys are the answers
  let moved = false;
  for (const event of MOVES) viewer.addHandler(event, () => (moved = true));
  viewer.addHandler("resize", () => moved || setTimeout(() => viewer.viewport?.goHome(true)));
  viewers.push(viewer);
  return new Promise((resolve, reject) => {
    viewer.addHandler("open", () => viewer.world.getItemAt(0).whenFullyLoaded(resolve));
    viewer.addHandler("open-failed", () => reject(new Error("An image cannot be loaded.")));
    viewer.addHandler("tile-load-failed", () => reject(new Error("An image cannot be loaded.")));
  });
}

/** Source and translations show the same place. */
function synchronise() {
  const all = [...viewers];
  let leader = all[0];
  for (const viewer of all) {
    for (const event of MOVES) viewer.addHandler(event, () => (leader = viewer));
    viewer.addHandler("viewport-change", () => {
      if (viewer !== leader) return;
      for (const other of all) {
        if (other === leader || !other.viewport) continue;
        other.viewport.zoomTo(leader.viewport.getZoom(true), null, true);
        other.viewport.panTo(leader.viewport.getCenter(true), true);
      }
    });
  }
}

function countdown(panes, since) {
  if (!study.seconds) return;
  const tick = () => {
    const left = study.seconds - (performance.now() - since) / 1000;
    $("clock").textContent = left > 0 ? `${Math.ceil(left)} s` : "Time";
    $("clock").classList.toggle("over", left <= 0);
    if (left > 0) return;
    clearInterval(ticking);
    for (const box of panes) box.classList.add("over");
  };
  $("clock").hidden = false;
  ticking = setInterval(tick, 100);
  tick();
}

/** Show what is asked; `start` lets the reader answer, and starts the clocks. */
function question(item, panes) {
  let since = 0;
  let sent = false;
  const give = async (value) => {
    if (!since || sent) return;
    sent = true;
    const seconds = (performance.now() - since) / 1000;
    for (const button of $("footer").querySelectorAll("button, input")) button.disabled = true;
    try {
      const { solution } = await insist("/answers", { number: item.number, value, seconds });
      if (item.training) tell(item, value, solution);
      else await next();
    } catch (error) {
      say(error.message);
    }
  };
  const forms = { slider: scale, "2afc": forced, paired: yesOrNo, quality: ratings };
  $("footer").append(...forms[study.kind](item, give));
  const controls = [...$("footer").querySelectorAll("button, input")].filter((control) => !control.disabled);
  for (const control of controls) control.disabled = true;
  return {
    start() {
      for (const control of controls) control.disabled = false;
      since = performance.now();
      countdown(panes, since);
      $("main").dataset.ready = item.number;
    },
  };
}

const row = (text, ...children) => element("div", { class: "question" }, element("p", {}, text), ...children);
const choice = (text, title, onclick) => element("button", { title, onclick }, text);

function scale(item, give) {
  // No value at first: a thumb in the middle would draw answers to it.
  const value = element("output", {}, "–");
  const input = element("input", { type: "range", min: 0, max: 100, step: 1, "aria-label": "0 certainly synthetic, 100 certainly real" });
  const button = element("button", { class: "main", id: "next", disabled: true, title: "Enter", onclick: () => give(Number(input.value)) }, "Next");
  const box = element("div", { class: "scale unset" },
    input, element("div", {}, element("span", {}, "0 certainly synthetic"), value, element("span", {}, "100 certainly real")));
  const moved = () => {
    box.classList.remove("unset");
    value.textContent = input.value;
    button.disabled = false;
  };
  for (const event of ["input", "pointerup"]) input.addEventListener(event, moved);
  keys.Enter = () => !button.disabled && button.click();
  return [row(study.questions[0], box, button)];
}

function forced(item, give) {
  const [left, right] = item.choices;
  keys = { ArrowLeft: () => give(left), ArrowRight: () => give(right) };
  const choices = element("div", { class: "choices" },
    choice("← A is real", "Left arrow", keys.ArrowLeft), choice("B is real →", "Right arrow", keys.ArrowRight));
  return [row(study.questions[0], choices)];
}

function yesOrNo(item, give) {
  keys = { y: () => give(true), n: () => give(false) };
  const choices = element("div", { class: "choices" }, choice("Yes, the same", "y", keys.y), choice("No, another", "n", keys.n));
  return [row(study.questions[0], choices)];
}

function ratings(item, give) {
  const values = study.questions.map(() => null);
  const button = element("button", { class: "main", id: "next", disabled: true, title: "Enter", onclick: () => give(values) }, "Next");
  keys.Enter = () => !button.disabled && button.click();
  const rows = study.questions.map((text, at) => {
    const choices = item.choices.map((code, i) => choice(LETTERS[i], LETTERS[i], (event) => {
      values[at] = code;
      for (const other of choices) other.classList.toggle("on", other === event.currentTarget);
      button.disabled = values.includes(null);
    }));
    return [element("p", {}, text), element("div", { class: "choices", role: "group", "aria-label": text }, ...choices)];
  });
  return [element("div", { class: "ratings", style: `--questions: ${rows.length}` }, ...rows.flat(), button)];
}

/** After a training item: what was right. */
function tell(item, value, solution) {
  const said = study.kind === "slider" ? (value > 50 ? "real" : "synthetic") : value;
  const side = (code) => LETTERS[item.choices.indexOf(code)];
  const text = {
    slider: () => `This image is ${solution}.`,
    "2afc": () => `${side(solution)} is real.`,
    paired: () => (solution ? "Both show the same tissue." : "They show different tissue."),
  }[study.kind]();
  const state = said === solution ? "right" : "wrong";
  const button = element("button", { class: "main", id: "next", onclick: next }, "Next");
  keys = { Enter: next };
  clearInterval(ticking);
  for (const box of document.querySelectorAll(".pane")) box.classList.remove("over");
  $("footer").replaceChildren(element("div", { class: "question" }, element("p", { class: `solution ${state}` }, text), button));
}

// ---- keys, and where the reader is

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.id === "code") return;
  if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
  if (event.key === "f") return toggleFullScreen();
  if (event.key === "h") return viewers.forEach((viewer) => viewer.viewport.goHome());
  if (event.target.tagName === "BUTTON" && event.key === "Enter") return; // it is clicked
  keys[event.key]?.();
});

function toggleFullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.();
}
$("full").addEventListener("click", toggleFullScreen);
window.addEventListener("resize", arrange);

reader = decodeURIComponent(location.hash.slice(1));
if (reader) begin();
else login();

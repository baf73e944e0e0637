// A picture with numbered marks. Marks can be dragged where `editable`; the price of every arrangement is asked of the server.
const NS = "http://www.w3.org/2000/svg";
const SPOKEN = ["size", "color", "material", "shape"];
const find = (name) => element.querySelector("." + name);
let scene = null; // what the server sent last
let objects = []; // as they stand now
let chosen = -1;
let trace = []; // errors since the scene was loaded
let asking = false;
let again = false;

function node(name, attributes, parent, text) {
  const made = name.startsWith("html:") ? document.createElement(name.slice(5)) : document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

const plain = () => objects.map(({ position, attributes }) => ({ position, ...attributes }));
const words = (own) => SPOKEN.map((name) => own.attributes[name]).filter(Boolean).join(" ");

function load() {
  scene = props.value;
  objects = scene ? structuredClone(scene.objects) : [];
  for (const own of objects) own.found = [...own.position];
  chosen = -1;
  trace = scene && scene.error !== null ? [scene.error] : [];
  draw();
  panel();
  readout();
}

function draw() {
  const stage = find("igm-stage");
  stage.replaceChildren();
  if (!scene) return;
  const width = 600;
  const height = (width * scene.height) / scene.width;
  const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "picture with numbered objects" }, stage);
  node("image", { href: scene.picture, width, height, preserveAspectRatio: "none" }, svg);
  const at = ([x, y]) => [x * width, y * height];
  objects.forEach((own, number) => {
    if (!scene.editable || !own.found) return;
    const [x, y] = at(own.position);
    const [a, b] = at(own.found);
    if (Math.hypot(x - a, y - b) < 3) return;
    node("circle", { cx: a, cy: b, r: 13, class: "igm-ghost" }, svg);
    node("line", { x1: a, y1: b, x2: x, y2: y, class: "igm-ghost" }, svg);
  });
  objects.forEach((own, number) => mark(svg, own, number, at(own.position)));
  if (!scene.editable) captions(svg, width, height);
  if (scene.editable) svg.addEventListener("pointerdown", (event) => event.target.closest(".igm-mark") || choose(-1));
}

function mark(svg, own, number, [x, y]) {
  const name = `object ${number + 1}${words(own) ? ": " + words(own) : ""}`;
  const options = { class: "igm-mark" + (number === chosen ? " igm-chosen" : ""), "data-number": number, "aria-label": name };
  if (scene.editable) Object.assign(options, { tabindex: 0, role: "button" });
  const group = node("g", { transform: `translate(${x} ${y})`, ...options }, svg);
  node("title", {}, group, own.sure === null || own.sure === undefined ? name : `${name}, ${Math.round(100 * own.sure)} % sure`);
  node("circle", { r: 14, class: "igm-disc", style: own.sure !== null && own.sure < 0.5 ? "stroke-dasharray: 4 3" : "" }, group);
  node("text", { y: 5, "text-anchor": "middle" }, group, number + 1);
  if (!scene.editable) return;
  group.addEventListener("pointerdown", (event) => grab(event, svg, number));
  group.addEventListener("keydown", (event) => step(event, number));
  group.addEventListener("focus", () => number === chosen || choose(number));
}

// A place beside its mark for each caption: in the picture, and where it covers the least of marks and other captions.
function captions(svg, width, height) {
  const taken = objects.map(({ position: [x, y] }) => [x * width - 15, y * height - 15, x * width + 15, y * height + 15]);
  objects.forEach((own, number) => {
    const words = [own.attributes.color, own.attributes.shape].filter(Boolean).join(" ");
    const told = own.sure === null ? words : `${words} ${Math.round(100 * own.sure)} %`;
    if (!told) return;
    const [x, y, long] = [own.position[0] * width, own.position[1] * height, 6.9 * told.length];
    const sides = [[x + 19, y + 5], [x - 19 - long, y + 5], [x - long / 2, y - 20], [x - long / 2, y + 31]];
    const corners = [[x + 14, y - 16], [x + 14, y + 24], [x - 14 - long, y - 16], [x - 14 - long, y + 24]];
    const farther = [[x + 10, y - 34], [x + 10, y + 42], [x - 10 - long, y - 34], [x - 10 - long, y + 42]];
    const places = [...sides, ...corners, ...farther];
    const boxes = places.map(([left, base]) => [left, base - 12, left + long, base + 4]);
    const outside = ([l, t, r, b]) => l < 2 || r > width - 2 || t < 2 || b > height - 2;
    const shared = ([l, t, r, b], [a, c, d, e]) => Math.max(0, Math.min(r, d) - Math.max(l, a)) * Math.max(0, Math.min(b, e) - Math.max(t, c));
    const costs = boxes.map((own) => 1e5 * outside(own) + taken.reduce((sum, other, j) => sum + (j !== number) * shared(own, other), 0));
    const best = costs.indexOf(Math.min(...costs));
    taken.push(boxes[best]);
    node("text", { x: places[best][0], y: places[best][1], class: "igm-caption" }, svg, told);
  });
}

function choose(number) {
  chosen = number;
  draw();
  panel();
  if (number >= 0) element.querySelector(`[data-number="${number}"]`).focus({ preventScroll: true });
}

const inside = (value) => Math.min(1, Math.max(0, value));

function grab(event, svg, number) {
  event.preventDefault();
  chosen = number;
  panel();
  const box = svg.getBoundingClientRect();
  const start = objects[number].position;
  const [left, top] = [start[0] - (event.clientX - box.left) / box.width, start[1] - (event.clientY - box.top) / box.height];
  let moved = false;
  const drag = (next) => {
    const x = inside((next.clientX - box.left) / box.width + left);
    const y = inside((next.clientY - box.top) / box.height + top);
    moved = true;
    objects[number].position = [x, y];
    draw();
    price();
  };
  const drop = () => {
    window.removeEventListener("pointermove", drag);
    window.removeEventListener("pointerup", drop);
    window.removeEventListener("pointercancel", drop);
    choose(number);
    if (moved) changed();
  };
  window.addEventListener("pointermove", drag);
  window.addEventListener("pointerup", drop);
  window.addEventListener("pointercancel", drop);
  draw();
}

function step(event, number) {
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key === "Delete" || event.key === "Backspace") return event.preventDefault(), remove();
  if (!ways[event.key]) return;
  event.preventDefault();
  const [x, y] = objects[number].position;
  objects[number].position = [inside(x + 0.01 * ways[event.key][0]), inside(y + 0.01 * ways[event.key][1])];
  choose(number);
  price();
}

function remove() {
  if (chosen < 0) return;
  objects.splice(chosen, 1);
  choose(-1);
  changed();
}

function add() {
  const attributes = {};
  for (const [name, values] of Object.entries(scene.vocabulary)) attributes[name] = values[0];
  objects.push({ position: [0.5, 0.5], attributes, sure: null });
  choose(objects.length - 1);
  changed();
}

function changed() {
  price();
  if (find("igm-auto") && find("igm-auto").checked) regenerate();
}

const regenerate = () => trigger("submit", { key: scene.key, objects: plain() });

async function price() {
  again = true;
  if (asking) return;
  asking = true;
  while (again) {
    again = false;
    const asked = scene.key;
    let told;
    try {
      told = await server.price({ key: scene.key, objects: plain() });
    } catch (error) {
      told = { message: "The server does not answer; load the page again." };
    }
    if (asked !== scene.key) continue;
    if (told.message) find("igm-error").textContent = told.message;
    else {
      trace.push(told.error);
      trace = trace.slice(-160);
      readout();
    }
  }
  asking = false;
}

function readout() {
  const place = find("igm-error");
  if (!place || !trace.length) return;
  const [now, change] = [trace[trace.length - 1], trace[trace.length - 1] - scene.error];
  place.replaceChildren();
  node("html:span", { class: "igm-now" }, place, now.toFixed(4));
  const sign = change > 5e-5 ? "higher" : change < -5e-5 ? "lower" : "";
  const told = sign ? `${(Math.abs(100 * change) / scene.error).toFixed(1)} % ${sign} than as found` : "denoising error as found";
  node("html:span", { class: "igm-change igm-" + (sign || "same") }, place, told);
  const svg = node("svg", { viewBox: "0 0 320 46", preserveAspectRatio: "none", class: "igm-trace" }, place);
  const [low, high] = [Math.min(...trace, scene.error * 0.98), Math.max(...trace, scene.error * 1.1)];
  const y = (value) => (42 - (38 * (value - low)) / (high - low)).toFixed(1);
  node("line", { x1: 0, x2: 320, y1: y(scene.error), y2: y(scene.error), class: "igm-found" }, svg);
  const points = trace.map((value, i) => `${((320 * i) / Math.max(60, trace.length - 1)).toFixed(1)},${y(value)}`);
  node("polyline", { points: points.join(" ") }, svg);
}

function panel() {
  const place = find("igm-panel");
  place.replaceChildren();
  if (!scene || !scene.editable) return;
  const bar = node("html:div", { class: "igm-bar" }, place);
  const button = (text, action, off) => {
    const made = node("html:button", { type: "button", "data-action": text }, bar, text);
    made.disabled = Boolean(off);
    made.addEventListener("click", action);
  };
  button("Add object", add, objects.length >= scene.most);
  button("Remove", remove, chosen < 0);
  button("As found", load);
  button("Regenerate", regenerate);
  const label = node("html:label", {}, bar);
  const box = node("html:input", { type: "checkbox", class: "igm-auto" }, label);
  box.checked = scene.auto !== false;
  box.addEventListener("change", () => (scene.auto = box.checked));
  label.append("after each change");
  if (chosen < 0) return void node("html:p", { class: "igm-hint" }, place, "Drag an object, or select one to change what it is.");
  for (const name of Object.keys(scene.vocabulary).sort((a, b) => SPOKEN.indexOf(a) - SPOKEN.indexOf(b))) {
    const values = scene.vocabulary[name];
    const row = node("html:div", { class: "igm-row" }, place);
    node("html:span", {}, row, name === "color" ? "colour" : name);
    for (const value of values) {
      const on = objects[chosen].attributes[name] === value;
      const made = node("html:button", { type: "button", title: value, "aria-pressed": on, "data-value": value }, row);
      if (scene.colors[value]) (made.classList.add("igm-swatch"), (made.style.background = scene.colors[value]));
      else made.textContent = value;
      made.addEventListener("click", () => {
        objects[chosen].attributes[name] = value;
        choose(chosen);
        changed();
      });
    }
  }
}

watch("value", load);
load();

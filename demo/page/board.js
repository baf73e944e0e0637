// A picture with numbered marks. Marks can be dragged where `editable`; the price of every arrangement is asked of the server.
const NS = "http://www.w3.org/2000/svg";
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
const words = (own) => ["size", "color", "material", "shape"].map((name) => own.attributes[name]).filter(Boolean).join(" ");

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
  if (!scene.editable && scene.captions) caption(group, own, x);
  if (!scene.editable) return;
  group.addEventListener("pointerdown", (event) => grab(event, svg, number));
  group.addEventListener("keydown", (event) => step(event, number));
  group.addEventListener("focus", () => number === chosen || choose(number));
}

function caption(group, own, x) {
  const right = x > 440;
  const label = node("text", { x: right ? -20 : 20, y: 1, "text-anchor": right ? "end" : "start", class: "igm-caption" }, group);
  node("tspan", {}, label, [own.attributes.color, own.attributes.shape].filter(Boolean).join(" "));
  if (own.sure !== null && own.sure !== undefined)
    node("tspan", { x: right ? -20 : 20, dy: 13, class: "igm-sure" }, label, `${Math.round(100 * own.sure)} %`);
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
  const told = sign ? `${(Math.abs(100 * change) / scene.error).toFixed(1)} % ${sign} than as found` : "as found";
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
  const label = node("html:label", {}, bar);
  const box = node("html:input", { type: "checkbox", class: "igm-auto" }, label);
  box.checked = scene.auto !== false;
  box.addEventListener("change", () => (scene.auto = box.checked));
  label.append("regenerate after each change");
  button("Regenerate", regenerate);
  if (chosen < 0) return void node("html:p", { class: "igm-hint" }, place, "Drag an object, or select one to change what it is.");
  for (const [name, values] of Object.entries(scene.vocabulary)) {
    const row = node("html:div", { class: "igm-row" }, place);
    node("html:span", {}, row, name);
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

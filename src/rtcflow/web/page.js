// The page around a Call: buttons, words, pictures, meters, the plot.
import { Call, LevelMeter, listDevices } from "./rtcflow.js";

const $ = (id) => document.getElementById(id);
const first = (selector) => document.querySelector(selector);
const make = (tag) => document.createElement(tag);
const root = $("call");
const call = new Call();
const LOG_LINES = 200; // at most
const FOR_PROGRAMS = /^(Server received: handshake|started_talking$|pause_detected$|response_starting$)/; // the state says it
const PLOT_SECONDS = 60;
const SILENT_TICKS = 2; // of 0.5 s, then figures are old

let meters = {};
let flow = { received: 0, silent: 0, flowed: false }; // whether packets come
let handlerState = ""; // listening, thinking, speaking
let spokeAt = 0;
let peak = 0;
let points = [];
let startedAt = 0;
let ticking = 0;
let animation = 0;

$("where").textContent = location.host + location.pathname.replace(/\/$/, "");

// -- the call

$("toggle").addEventListener("click", () => (call.live ? call.stop() : attempt(() => call.start())));

for (const [id, kind, on, off] of [
  ["mute", "audio", "Mute", "Muted"],
  ["hide", "video", "Camera off", "Camera is off"],
]) {
  $(id).addEventListener("click", () => {
    const muted = $(id).getAttribute("aria-pressed") !== "true";
    call.mute(muted, kind);
    $(id).setAttribute("aria-pressed", String(muted));
    $(id).textContent = muted ? off : on;
  });
}

call.addEventListener("status", ({ detail: { status, words } }) => {
  root.dataset.status = status;
  root.toggleAttribute("data-live", call.live);
  $("toggle-word").textContent = call.live ? "Stop" : "Start";
  say(status === "failed" ? "Not connected." : words);
  $("transport").disabled = call.live;
  $("words").disabled = $("send").disabled = status !== "connected";
  if (status === "connecting") begin();
  if (status === "interrupted") {
    root.dataset.stale = "";
    $("quality").textContent = "–";
  }
  if (status === "connected" && !startedAt) {
    startedAt = performance.now();
    if (!$("json")) apply();
  }
});

function say(words) {
  if ($("status").textContent !== words) $("status").textContent = words;
}

/** What happens now: the handler's word, else from what is heard. */
function showState() {
  if (call.status !== "connected" || "stale" in root.dataset) return;
  const speaking = performance.now() - spokeAt < 600;
  const heard = root.dataset.mode === "send" || !speaking ? "listening" : "speaking";
  const state = handlerState || (root.dataset.modality === "video" ? "" : heard);
  root.dataset.state = state;
  const muted = $("mute").ariaPressed === "true";
  say({ listening: muted ? "You are muted." : "Connected. Listening …", thinking: "Thinking …", speaking: "Speaking …" }[state] ?? "Connected.");
}

call.addEventListener("local", ({ detail: { stream } }) => {
  $("preview").srcObject = stream;
  measure("sent", stream);
  showDevices(); // the browser tells their names now
});

call.addEventListener("track", ({ detail: { stream } }) => {
  $("back").srcObject = stream;
  measure("heard", stream);
});

call.addEventListener("message", ({ detail: { type, data } }) => {
  const text = typeof data === "string" ? data : data === undefined ? "" : JSON.stringify(data);
  if (type === "transcript") return transcript(data);
  if (type === "state") {
    handlerState = typeof data === "string" ? data : "";
    return showState();
  }
  if (type === "send_input") ask();
  else if (["turn", "reply"].includes(type) || FOR_PROGRAMS.test(text)) return;
  else if (type === "error") trouble(text); // the alert says it
  else log(type, ["log", "text", "warning"].includes(type) ? text : `${type} ${text}`.trim());
});

call.addEventListener("output", ({ detail: { values } }) => {
  first(".outputs").hidden = false;
  if (root.dataset.outputs === "last") $("outputs").replaceChildren();
  const words = values.map((value) => (typeof value === "string" ? value : JSON.stringify(value)));
  line("outputs", "output", words.join("  "));
});

call.addEventListener("ended", ({ detail: { failed, words } }) => {
  clearInterval(ticking);
  cancelAnimationFrame(animation);
  for (const meter of Object.values(meters)) meter.close();
  meters = {};
  startedAt = 0;
  handlerState = "";
  delete root.dataset.state;
  delete root.dataset.stale;
  $("quality").textContent = "";
  $("back").srcObject = $("preview").srcObject = null;
  ring("sent-ring", 0);
  ring("heard-ring", 0);
  if (failed && $("trouble").hidden) trouble(words);
});

addEventListener("pagehide", () => call.stop());

async function attempt(action) {
  trouble("");
  try {
    await action();
  } catch (error) {
    trouble(error.message);
  }
}

function trouble(words) {
  $("trouble").textContent = words;
  $("trouble").hidden = !words;
}

// -- devices

const DEVICES = [
  ["microphone", "audioinput", (id) => call.useDevice("audio", id)],
  ["camera", "videoinput", (id) => call.useDevice("video", id)],
  ["speaker", "audiooutput", (id) => $("back").setSinkId(id)],
];

const inUse = {}; // by list: the device that works

for (const [id, , use] of DEVICES) $(id).addEventListener("change", () => attempt(() => change(id, use)));
$("transport").addEventListener("change", () => (call.transport = $("transport").value));
navigator.mediaDevices?.addEventListener("devicechange", showDevices);

async function change(id, use) {
  const { value } = $(id);
  try {
    await use(value);
    inUse[id] = value;
  } catch (error) {
    if ($(id).value === value) $(id).value = inUse[id] ?? "";
    throw error;
  }
}

async function showDevices() {
  const found = await listDevices();
  for (const [id, kind] of DEVICES) {
    const chosen = $(id).value;
    const options = found[kind].filter((device) => device.id !== "default");
    $(id).replaceChildren(new Option("Default", ""), ...options.map((device) => new Option(device.label, device.id)));
    $(id).value = options.some((device) => device.id === chosen) ? chosen : "";
  }
  first(".speaker").hidden = !("setSinkId" in $("back")) || !found.audiooutput.length;
}

// -- arguments and messages

$("arguments").addEventListener("submit", (event) => {
  event.preventDefault();
  apply();
});
$("arguments").addEventListener("change", apply);

function ask() {
  first(".arguments").hidden = false;
  if ($("json")) {
    log("log", "The handler asks for its arguments.");
    $("json").focus();
  } else apply();
}

function apply() {
  const form = $("arguments");
  const values = readArguments();
  if (call.status !== "connected" || !values?.length || !form.reportValidity()) return;
  attempt(() => call.setInput(...values));
}

function readArguments() {
  const json = $("json");
  if (!json) return Array.from($("arguments").elements).filter(({ name }) => name).map(readField);
  try {
    json.setCustomValidity("");
    return JSON.parse(`[${json.value}]`);
  } catch {
    json.setCustomValidity('Write JSON values with commas between them, such as "French", 0.7');
    json.reportValidity();
    return null;
  }
}

function readField(field) {
  if (field.type === "checkbox") return field.checked;
  if (field.type === "number") return field.valueAsNumber;
  return field.tagName === "SELECT" ? JSON.parse(field.value) : field.value;
}

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const { value } = $("words");
  if (!value) return;
  attempt(() => call.send(value));
  if (first(".transcript").hidden) log("said", value); // the transcript will have it
  $("words").value = "";
});

/** What was said: { role: "user" or "assistant", text, heard, id }. Unheard words are struck through. */
function transcript(data) {
  const { role = "assistant", text = "", heard, id } = typeof data === "object" && data ? data : { text: String(data) };
  first(".transcript").hidden = false;
  const list = $("transcript");
  const last = list.lastElementChild;
  const known = id !== undefined && Array.from(list.children).find((item) => item.dataset.id === String(id));
  const item = known || make("li");
  if (id !== undefined) item.dataset.id = String(id);
  item.className = role === "user" ? "user" : "assistant";
  const said = typeof heard === "string" && text.startsWith(heard) ? heard : text;
  const rest = text.slice(said.length);
  const lost = make("s");
  lost.textContent = rest;
  item.replaceChildren(said, ...(rest ? [lost] : []));
  if (!known && last !== item) list.append(item);
  while (list.children.length > LOG_LINES) list.firstChild.remove();
  const frame = $("transcript-frame");
  frame.scrollTop = frame.scrollHeight;
}

function log(type, text) {
  first(".messages").hidden = false;
  line("log", type, text);
}

function line(id, type, text) {
  const item = make("li");
  const time = make("time");
  const words = make("span");
  time.textContent = new Date().toLocaleTimeString([], { hour12: false });
  words.textContent = text;
  words.className = type;
  item.append(time, words);
  const frame = $(`${id}-frame`);
  const atEnd = frame.scrollTop + frame.clientHeight >= frame.scrollHeight - 4;
  $(id).append(item);
  while ($(id).children.length > LOG_LINES) $(id).firstChild.remove();
  if (atEnd) frame.scrollTop = frame.scrollHeight;
}

// -- meters and figures

function measure(name, stream) {
  if (!stream.getAudioTracks().length) return;
  meters[name]?.close();
  meters[name] = new LevelMeter(stream);
}

function begin() {
  points = [];
  peak = 0;
  flow = { received: 0, silent: 0, flowed: false };
  clearInterval(ticking);
  ticking = setInterval(tick, 500);
  animation = requestAnimationFrame(animate);
}

function animate() {
  const sent = meters.sent?.read() ?? 0;
  const heard = meters.heard?.read() ?? 0;
  peak = Math.max(peak, heard);
  ring("sent-ring", sent);
  ring("heard-ring", heard);
  if (heard > 0.01) spokeAt = performance.now();
  root.dataset.sentLevel = sent.toFixed(4);
  root.dataset.heardLevel = heard.toFixed(4);
  root.dataset.heardPeak = peak.toFixed(4);
  animation = requestAnimationFrame(animate);
}

function ring(id, level) {
  // -60 dBFS to 0 dBFS make the ring up to 50 % wider than the button: ears are logarithmic
  const width = level > 0.001 ? 1 + Math.log10(level) / 3 : 0;
  $(id).style.transform = `scale(${(1 + 0.5 * Math.min(1, Math.max(0, width))).toFixed(3)})`;
}

/** Old figures are worse than none: grey them, and say so, as soon as packets stop. */
function watchFlow(received) {
  flow.silent = received > flow.received ? 0 : flow.silent + 1;
  flow.flowed ||= received > flow.received && flow.received > 0;
  flow.received = received;
  const stale = root.dataset.mode !== "send" && flow.flowed && flow.silent >= SILENT_TICKS;
  root.toggleAttribute("data-stale", stale);
  if (stale && call.status === "connected") say("Interrupted. Nothing arrives …");
  return stale;
}

/** One word for how well speech gets through (ITU-T G.114: 150 ms one way is good, 400 ms the most). */
function quality({ roundTrip, jitter, loss }) {
  const late = (roundTrip ?? 0) / 2 + (jitter ?? 0);
  if (loss > 0.1 || late > 0.4) return "poor";
  return loss > 0.02 || late > 0.15 ? "fair" : "good";
}

async function tick() {
  const figures = await call.statistics();
  if (!figures) return;
  root.dataset.packetsReceived = figures.packetsReceived;
  root.dataset.packetsSent = figures.packetsSent;
  if (!startedAt) return;
  const stale = watchFlow(figures.packetsReceived);
  showState();
  const seconds = Math.floor((performance.now() - startedAt) / 1000);
  $("clock").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  $("round-trip").textContent = milliseconds(figures.roundTrip);
  $("jitter").textContent = milliseconds(figures.jitter);
  $("loss").textContent = `${(100 * figures.loss).toFixed(1)} %`;
  $("quality").textContent = stale ? "–" : quality(figures);
  const { framesPerSecond, width, height } = figures.video ?? {};
  $("picture-rate").textContent = width ? `${width} × ${height}, ${Math.round(framesPerSecond)} a second` : "";
  if (!stale) points.push({ ...figures, at: performance.now() });
  points = points.filter((point) => point.at > performance.now() - 1000 * (PLOT_SECONDS + 1));
  draw();
}

function milliseconds(value) {
  if (value === null) return "–";
  return value < 0.01 ? `${(1000 * value).toFixed(1)} ms` : `${Math.round(1000 * value)} ms`;
}

// -- the plot

addEventListener("resize", draw);
$("connection").addEventListener("toggle", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

function draw() {
  const canvas = $("plot");
  const scale = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width) return; // the disclosure is closed
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const bottom = height - 16;
  const top = 6;

  const largest = Math.max(0.009, ...points.map((point) => Math.max(point.roundTrip ?? 0, point.jitter ?? 0)));
  const ceiling = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5].find((step) => step >= largest * 1.05) ?? largest;
  const now = performance.now();
  const shown = Math.min(PLOT_SECONDS, Math.max(15, points.length ? (now - points[0].at) / 1000 : 0));
  const x = (at) => width * (1 - (now - at) / (1000 * shown));
  const y = (value) => bottom - (bottom - top) * (value / ceiling);

  pen.strokeStyle = colour("--line");
  pen.fillStyle = colour("--quiet");
  pen.font = "11px system-ui, sans-serif";
  pen.lineWidth = 1;
  for (const share of [0, 0.5, 1]) {
    const level = Math.round(y(ceiling * share)) + 0.5;
    pen.beginPath();
    pen.moveTo(0, level);
    pen.lineTo(width, level);
    pen.stroke();
  }
  pen.fillText(`${Math.round(1000 * ceiling)} ms`, 2, top + 12);
  pen.fillText(shown === PLOT_SECONDS ? "1 min ago" : `${Math.round(shown)} s ago`, 2, height - 3);
  pen.textAlign = "right";
  pen.fillText("now", width - 2, height - 3);

  pen.fillStyle = colour("--red");
  for (const point of points) {
    const share = Math.min(1, point.loss * 5); // the whole height is 20 % loss
    if (share > 0) pen.fillRect(x(point.at) - 1.5, bottom - (bottom - top) * share, 3, (bottom - top) * share);
  }
  for (const [name, key] of [["--amber", "jitter"], ["--blue", "roundTrip"]]) {
    pen.strokeStyle = colour(name);
    pen.lineWidth = 2;
    pen.lineJoin = "round";
    pen.beginPath();
    // the first one begins the line
    for (const point of points) if (point[key] !== null) pen.lineTo(x(point.at), y(point[key]));
    pen.stroke();
  }
}

showDevices();
draw();

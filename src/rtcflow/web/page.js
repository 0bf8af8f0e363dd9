// The page around a Call: buttons, words, meters, the plot.
import { Call, LevelMeter } from "./rtcflow.js";

const $ = (id) => document.getElementById(id);
const root = $("call");
const call = new Call({ url: new URL("webrtc/offer", location.href).href, rtcConfiguration: askConfiguration });
const LOG_LINES = 200; // the most that are kept
const PLOT_SECONDS = 60; // the most; the plot begins with the first 15

let meters = {};
let points = [];
let startedAt = 0;
let ticking = 0;

$("where").textContent = location.host + location.pathname.replace(/\/$/, "");

$("toggle").addEventListener("click", async () => {
  if (root.hasAttribute("data-live")) {
    call.stop();
    return;
  }
  trouble("");
  try {
    await call.start();
  } catch (error) {
    trouble(error.message);
  }
});

$("mute").addEventListener("click", () => {
  const muted = $("mute").getAttribute("aria-pressed") !== "true";
  call.mute(muted);
  showMuted(muted);
});

call.addEventListener("status", ({ detail: { status, words } }) => {
  root.dataset.status = status;
  root.toggleAttribute("data-live", call.live);
  $("toggle-word").textContent = call.live ? "Stop" : "Start";
  $("status").textContent = status === "failed" ? "Not connected." : words;
  $("mute").disabled = !call.live || status === "asking";
  if (status === "connecting") begin();
  if (status === "connected" && !startedAt) {
    startedAt = performance.now();
    log("log", "Connected.");
  } else if (status === "interrupted") {
    log("warning", words);
  }
});

call.addEventListener("track", ({ detail: { track, stream } }) => {
  if (track.kind !== "audio") return;
  $("heard").srcObject = stream;
  meters.heard = new LevelMeter(stream);
});

call.addEventListener("message", ({ detail: { type, data } }) => {
  const text = typeof data === "string" ? data : data === undefined ? "" : JSON.stringify(data);
  if (type === "log" && text.startsWith("Server received: handshake")) return;
  log(type, ["log", "text", "error", "warning"].includes(type) ? text : `${type} ${text}`.trim());
  if (type === "error") trouble(text);
});

call.addEventListener("ended", ({ detail: { failed, words } }) => {
  clearInterval(ticking);
  cancelAnimationFrame(animation);
  for (const meter of Object.values(meters)) meter.close();
  meters = {};
  startedAt = 0;
  $("heard").srcObject = null;
  bar("sent-bar", 0);
  bar("heard-bar", 0);
  showMuted(false);
  if (failed && $("trouble").hidden) trouble(words);
  log(failed ? "error" : "log", words);
});

addEventListener("pagehide", () => call.stop());
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

async function askConfiguration() {
  try {
    const response = await fetch("webrtc/configuration");
    return response.ok ? (await response.json()).rtcConfiguration : {};
  } catch {
    return {}; // the offer, which comes next, will tell what is wrong
  }
}

function begin() {
  points = [];
  meters.sent = new LevelMeter(call.localStream);
  clearInterval(ticking);
  ticking = setInterval(tick, 500);
  animation = requestAnimationFrame(animate);
}

let animation = 0;
let peak = 0;
function animate() {
  const sent = meters.sent?.read() ?? 0;
  const heard = meters.heard?.read() ?? 0;
  peak = Math.max(peak, heard);
  bar("sent-bar", sent);
  bar("heard-bar", heard);
  root.dataset.sentLevel = sent.toFixed(4);
  root.dataset.heardLevel = heard.toFixed(4);
  root.dataset.heardPeak = peak.toFixed(4);
  animation = requestAnimationFrame(animate);
}

async function tick() {
  const figures = await call.statistics();
  if (!figures) return;
  root.dataset.packetsReceived = figures.packetsReceived;
  root.dataset.packetsSent = figures.packetsSent;
  if (!startedAt) return;
  const seconds = Math.floor((performance.now() - startedAt) / 1000);
  $("clock").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  $("round-trip").textContent = milliseconds(figures.roundTrip);
  $("jitter").textContent = milliseconds(figures.jitter);
  $("loss").textContent = `${(100 * figures.loss).toFixed(1)} %`;
  points.push({ ...figures, at: performance.now() });
  points = points.filter((point) => point.at > performance.now() - 1000 * (PLOT_SECONDS + 1));
  draw();
}

function milliseconds(value) {
  if (value === null) return "–";
  return value < 0.01 ? `${(1000 * value).toFixed(1)} ms` : `${Math.round(1000 * value)} ms`;
}

function bar(id, level) {
  // -60 dBFS to 0 dBFS over the width: ears are logarithmic
  const width = level > 0.001 ? 1 + Math.log10(level) / 3 : 0;
  $(id).style.transform = `scaleX(${Math.min(1, Math.max(0, width)).toFixed(3)})`;
}

function showMuted(muted) {
  $("mute").setAttribute("aria-pressed", String(muted));
  $("mute").textContent = muted ? "Muted" : "Mute";
}

function trouble(words) {
  $("trouble").textContent = words;
  $("trouble").hidden = !words;
}

function log(type, text) {
  const line = document.createElement("li");
  const time = document.createElement("time");
  const words = document.createElement("span");
  time.textContent = new Date().toLocaleTimeString([], { hour12: false });
  words.textContent = text;
  words.className = type;
  line.append(time, words);
  const list = $("log");
  const atEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 4;
  list.append(line);
  while (list.children.length > LOG_LINES) list.firstChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function draw() {
  const canvas = $("plot");
  const scale = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
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
    const share = Math.min(1, point.loss * 5); // the whole height is 20 % loss: beyond that speech is gone anyway
    if (share > 0) pen.fillRect(x(point.at) - 1.5, bottom - (bottom - top) * share, 3, (bottom - top) * share);
  }
  for (const [name, key] of [["--amber", "jitter"], ["--blue", "roundTrip"]]) {
    pen.strokeStyle = colour(name);
    pen.lineWidth = 2;
    pen.lineJoin = "round";
    pen.beginPath();
    let drawn = false;
    for (const point of points) {
      if (point[key] === null) continue;
      if (drawn) pen.lineTo(x(point.at), y(point[key]));
      else pen.moveTo(x(point.at), y(point[key]));
      drawn = true;
    }
    pen.stroke();
  }
}

draw();

// The browser client of rtcflow: one ES module without dependencies. docs/page.md tells how to use it.

const DISCONNECTED_LIMIT = 15_000; // ms without a path until a call is given up
const CONNECT_LIMIT = 20_000; // ms from the answer to a working path
const PING_EVERY = 400; // ms; over a WebSocket: three without an answer, and the line is lost if the server waits
const LISTEN_EVERY = 200; // ms; over WebRTC
const RECONNECT_LIMIT = 5000; // ms to come back
const CLOCK_LIMIT = 2000; // ms in which the audio clock must have moved
const WEBSOCKET_BUFFER = 64_000; // bytes that may wait to be sent: 0.7 s of sound

const LOST = "The line was lost.";
const LIVE = new Set(["asking", "connecting", "connected", "interrupted"]);

export class CallError extends Error {
  constructor(words, code = "failed") {
    super(words);
    this.name = "CallError";
    this.code = code;
  }
}

export class Call extends EventTarget {
  #options;
  #devices = {}; // the deviceId that was chosen, by kind
  #muted = new Set();
  #facts = {}; // what the server says of itself
  #local = null;
  #remote = null;
  #line = null;
  #abort = null;
  #previous = null;
  #permit = {}; // what the server said about coming back: { secret, seconds, stop }, or nothing
  #reading = ""; // the id of the call whose outputs are being read
  #seen = { id: "", number: "" }; // the last of its outputs that came

  constructor(options = {}) {
    super();
    const base = new URL(options.url ?? new URL(".", import.meta.url), document.baseURI).href;
    this.#options = { transport: "webrtc", headers: {}, ...options, base: base.endsWith("/") ? base : `${base}/` };
    this.id = "";
    this.status = "idle";
  }

  get localStream() {
    return this.#local;
  }

  get remoteStream() {
    return this.#remote;
  }

  get live() {
    return LIVE.has(this.status);
  }

  get transport() {
    return this.#options.transport;
  }

  set transport(name) {
    this.#options.transport = name;
  }

  async start() {
    if (this.live) throw new CallError("This call is already under way.", "already_started");
    this.id = randomId();
    this.#previous = null;
    this.#permit = {};
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    try {
      this.#say("asking", "Asking the server …");
      this.#facts = await this.#ask(signal);
      const wanted = this.#wanted();
      const names = deviceNames(wanted);
      if (names) this.#say("asking", `Waiting for the ${names} …`);
      const local = await openDevices(wanted, names);
      if (signal.aborted) return stopTracks(local);
      this.#take(local);
      this.#say("connecting", "Connecting …");
      this.#remote = new MediaStream();
      await this.#connect(signal);
    } catch (error) {
      if (signal.aborted) return;
      const known = error instanceof CallError ? error : new CallError(String(error.message || error));
      this.#finish("failed", known.message);
      throw known;
    }
  }

  stop() {
    const { stop: token } = this.#permit;
    // beside the line, which may be lost
    if (this.live && token) this.#post("webrtc/offer", { type: "stop", webrtc_id: this.id, token }).catch(() => {});
    this.#finish("ended", "The call has ended.");
  }

  mute(muted, kind = "audio") {
    if (muted) this.#muted.add(kind);
    else this.#muted.delete(kind);
    for (const track of this.#local?.getTracks() ?? []) if (track.kind === kind) track.enabled = !muted;
  }

  async useDevice(kind, deviceId) {
    const before = this.#devices[kind];
    const old = this.#local?.getTracks().find((track) => track.kind === kind);
    this.#devices[kind] = deviceId;
    if (!old) return;
    try {
      const opened = await this.#open(kind);
      if (!this.#inUse(old) || this.#devices[kind] !== deviceId) return stopTracks(opened); // it ended, or another was chosen
      await this.#exchange(old, opened.getTracks()[0]);
    } catch (error) {
      // Many telephones have one camera at a time.
      const busy = error.code === "NotReadableError" && this.#inUse(old);
      if (busy && (await this.#exchangeClosed(old, before))) return;
      if (this.#devices[kind] === deviceId) this.#devices[kind] = before;
      throw error;
    }
  }

  #open(kind) {
    const wanted = { [kind]: this.#wanted()[kind] };
    return openDevices(wanted, deviceNames(wanted));
  }

  #inUse(track) {
    return Boolean(this.#local?.getTracks().includes(track));
  }

  /** Send `track` in place of `old`, which is closed then. */
  async #exchange(old, track) {
    const local = this.#local;
    local.addTrack(track);
    local.removeTrack(old);
    this.#take(local);
    await this.#line?.replace(track, local);
    old.onended = null;
    old.stop();
  }

  /** Close `old` before its successor opens; if that fails open the device `before`, and say false. */
  async #exchangeClosed(old, before) {
    const { kind } = old;
    old.onended = null;
    old.stop();
    let opened = await this.#open(kind).catch(() => null);
    const changed = Boolean(opened);
    if (!opened) {
      this.#devices[kind] = before;
      opened = await this.#open(kind).catch(() => null);
    }
    if (!opened) this.#gone(kind);
    else if (this.#inUse(old)) await this.#exchange(old, opened.getTracks()[0]);
    else stopTracks(opened);
    return changed;
  }

  send(message) {
    const text = typeof message === "string" ? message : JSON.stringify(message);
    if (!this.#line?.send(text)) throw new CallError("Messages can be sent while the call is up.", "not_open");
  }

  async setInput(...args) {
    await this.#post("webrtc/input", { webrtc_id: this.id, args });
  }

  async statistics() {
    const now = await this.#line?.figures();
    if (!now) return null;
    const before = this.#previous ?? { received: 0, lost: 0 };
    this.#previous = now;
    const lost = Math.max(0, now.lost - before.lost);
    const expected = lost + Math.max(0, now.received - before.received);
    return {
      roundTrip: now.roundTrip,
      jitter: now.jitter,
      loss: expected ? lost / expected : 0,
      packetsReceived: now.received,
      packetsSent: now.sent,
      packetsLost: now.lost,
      video: now.video,
    };
  }

  // -- making a call

  async #ask(signal) {
    try {
      return await this.#fetch("webrtc/configuration", { signal });
    } catch (error) {
      if (error.code === "http_404") return {}; // another kind of server: a call with sound both ways
      throw error;
    }
  }

  /** Constraints for what is to be sent, by kind: false, true or an object. */
  #wanted() {
    const { modality = "audio", mode = "send-receive", trackConstraints = {} } = this.#facts;
    const wanted = {};
    for (const kind of ["audio", "video"]) {
      const own = modality === "audio-video" ? trackConstraints[kind] : (trackConstraints[kind] ?? trackConstraints);
      const found = this.#options[kind] ?? (mode !== "receive" && modality.includes(kind) && (own ?? true));
      wanted[kind] = found === true ? {} : found;
      const deviceId = this.#devices[kind];
      if (wanted[kind] && deviceId) wanted[kind] = { ...wanted[kind], deviceId: { exact: deviceId } };
    }
    if (this.transport === "websocket") wanted.video = false;
    return wanted;
  }

  #take(local) {
    this.#local = local;
    for (const track of local.getTracks()) {
      track.enabled = !this.#muted.has(track.kind);
      track.onended = () => this.#gone(track.kind);
    }
    this.#tell("local", { stream: local });
  }

  #gone(kind) {
    this.#tell("message", { type: "warning", data: `${DEVICES[kind]} has gone.` });
  }

  async #connect(signal) {
    const { rtcConfiguration, rtpParams, base } = this.#options;
    const given = rtcConfiguration ?? this.#facts.rtcConfiguration ?? {};
    const current = (method) => (...all) => line === this.#line && method.apply(this, all);
    const Line = this.transport === "websocket" ? WebSocketLine : PeerLine;
    const line = new Line({
      id: this.id,
      base,
      modality: this.#facts.modality ?? "audio",
      mode: this.#facts.mode ?? "send-receive",
      configuration: typeof given === "function" ? await given() : given,
      rtpParams: rtpParams ?? this.#facts.rtpParams ?? {},
      post: (body) => this.#post("webrtc/offer", body, signal),
      permit: this.#permit,
      limit: this.#permit.secret ? RECONNECT_LIMIT : CONNECT_LIMIT,
      onlost: current(this.#lost),
      onstatus: current(this.#say),
      onfinish: current(this.#finish),
      onmessage: current(this.#read),
      ontrack: current(this.#hear),
    });
    if (signal.aborted) return;
    this.#line = line;
    const aborted = new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    await Promise.race([line.open(this.#local, signal), aborted]);
  }

  /** The line was lost: go on over another, if the server waits. */
  async #lost(words) {
    const lost = this.#line;
    const { signal } = this.#abort;
    const deadline = Date.now() + 1000 * (this.#permit.seconds ?? 0);
    this.#line = null;
    for (let pause = 100; Date.now() < deadline && !signal.aborted; pause = Math.min(2 * pause, 2000)) {
      this.#say("interrupted", "Reconnecting …");
      for (const track of this.#remote.getTracks()) this.#remote.removeTrack(track);
      try {
        await this.#connect(signal);
        return lost.close(true); // not earlier: a goodbye over the last line would end the call
      } catch ({ code }) {
        if (signal.aborted) break;
        this.#line?.close();
        if (code === "call_lost") break;
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
    lost.close(true);
    if (!signal.aborted) this.#finish("failed", words);
  }

  #hear(track) {
    this.#remote.addTrack(track);
    this.#tell("track", { track, stream: this.#remote });
  }

  #finish(status, words) {
    if (!this.live) return;
    this.#abort.abort();
    this.#line?.close();
    stopTracks(this.#local);
    this.#line = this.#local = this.#remote = null;
    this.#say(status, words);
    this.#tell("ended", { failed: status === "failed", words });
  }

  // -- what the server says

  #read(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {} // the application's own words
    if (typeof message?.type !== "string") message = { type: "text", data: text };
    const { type, data = message.message } = message;
    if (type === "fetch_output") this.#readOutputs();
    else this.#tell("message", { type, data });
    if (type === "end_stream") this.#finish("ended", `The server has ended the call${data ? `: ${data}` : ""}.`);
    if (type === "update_connection" && data === "closed") this.#finish("ended", "The server has ended the call.");
  }

  /** Read the handler's AdditionalOutputs (server-sent events), from the first to the last. */
  async #readOutputs() {
    const { id } = this;
    if (this.#reading === id) return;
    this.#reading = id;
    if (this.#seen.id !== id) this.#seen = { id, number: "" };
    const headers = { ...this.#options.headers };
    if (this.#seen.number) headers["Last-Event-ID"] = this.#seen.number;
    try {
      const response = await fetch(this.#at(`webrtc/outputs?webrtc_id=${id}`), { headers });
      if (!response.ok) return;
      let rest = "";
      const chunks = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let chunk = await chunks.read(); !chunk.done; chunk = await chunks.read()) {
        const events = (rest + chunk.value).split("\n\n");
        rest = events.pop();
        if (id === this.id) for (const event of events) this.#output(event);
      }
    } catch { // the next output tries again
    } finally {
      if (this.#reading === id) this.#reading = "";
    }
  }

  #output(event) {
    const [, number, name, data] = /^(?:id: (\d+)\n)?event: (\w+)\ndata: (.*)$/.exec(event) ?? [];
    if (number) this.#seen.number = number;
    if (name === "output") this.#tell("output", { values: JSON.parse(data) });
    if (name === "failure") this.#tell("message", { type: "warning", data: JSON.parse(data) });
  }

  #post(path, body, signal) {
    return this.#fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      keepalive: body.type === "stop", // the page may be about to go
      signal,
    });
  }

  async #fetch(path, request) {
    let response;
    try {
      response = await fetch(this.#at(path), {
        ...request,
        headers: { ...request.headers, ...this.#options.headers },
      });
    } catch (error) {
      if (request.signal?.aborted) throw error;
      throw new CallError("The server does not answer. Is it running?", "unreachable");
    }
    const result = await response.json().catch(() => ({}));
    if (!response.ok || result.status === "failed") throw refusal(result, `http_${response.status}`);
    return result;
  }

  #at(path) {
    return new URL(path, this.#options.base);
  }

  #say(status, words) {
    this.status = status;
    this.#tell("status", { status, words });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function refusal(result, status) {
  const { error = status, message } = result.meta ?? {};
  return new CallError(`The server refused the call${message ? `: ${message}` : ` (${error})`}.`, error);
}

function randomId() {
  return hex(crypto.getRandomValues(new Uint8Array(16)));
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What a new line says of coming back: that it would like to, or the proof of the caller. */
async function comingBack({ id, permit: { secret } }, offer = "") {
  if (!secret) return Boolean(crypto.subtle); // insecure pages have none
  const number = Date.now();
  const [key, words] = [secret, `rtcflow-resume\n${id}\n${number}\n${offer}`].map((it) => new TextEncoder().encode(it));
  const hmac = { name: "HMAC", hash: "SHA-256" };
  const digest = await crypto.subtle.sign(hmac, await crypto.subtle.importKey("raw", key, hmac, false, ["sign"]), words);
  return { number, proof: hex(new Uint8Array(digest)) };
}

// -- microphone and camera

const DEVICES = { audio: "The microphone", video: "The camera" };

const DEVICE_WORDS = {
  NotAllowedError: (it) =>
    `The ${it} was refused. Allow it for this page (the icon beside the address), then press Start again.`,
  SecurityError: (it) => `The browser does not let this page use the ${it}.`,
  NotFoundError: (it) => `No ${it} was found. Plug one in, then press Start again.`,
  NotReadableError: (it) => `The ${it} is in use by another program, or the system holds it back.`,
  OverconstrainedError: (it) => `The ${it} that was chosen is not there any more, or cannot do what is asked of it.`,
  AbortError: (it) => `The ${it} could not be opened.`,
};

function deviceNames({ audio, video }) {
  return [audio && "microphone", video && "camera"].filter(Boolean).join(" or ");
}

async function openDevices(wanted, names) {
  if (!names) return new MediaStream();
  if (!navigator.mediaDevices?.getUserMedia) {
    const words = `Browsers open the ${names} only on https:// pages and on localhost. Open this page that way.`;
    throw new CallError(words, "insecure");
  }
  try {
    return await navigator.mediaDevices.getUserMedia(wanted);
  } catch (error) {
    const words = DEVICE_WORDS[error.name]?.(names) ?? `The ${names} could not be opened: ${error.message}`;
    throw new CallError(words, error.name);
  }
}

export async function listDevices() {
  const found = { audioinput: [], videoinput: [], audiooutput: [] };
  for (const { kind, deviceId, label } of (await navigator.mediaDevices?.enumerateDevices()) ?? []) {
    if (deviceId) found[kind]?.push({ id: deviceId, label: label || `${found[kind].length + 1}` });
  }
  return found;
}

function stopTracks(stream) {
  for (const track of stream?.getTracks() ?? []) {
    track.onended = null;
    track.stop();
  }
}

// -- WebRTC

class PeerLine {
  #host;
  #pc = null;
  #channel = null;
  #up = false; // or was
  #timer = 0;
  #waiting = []; // candidates found before the server knows this call, then null
  #posting = Promise.resolve();
  #problems = new Set(); // of STUN and TURN servers
  #listening = 0;

  constructor(host) {
    this.#host = host;
  }

  async open(local, signal) {
    const { id, configuration, mode, modality, post, permit } = this.#host;
    const pc = (this.#pc = new RTCPeerConnection(configuration));
    const direction = { send: "sendonly", receive: "recvonly" }[mode] ?? "sendrecv";
    for (const track of local.getTracks()) pc.addTransceiver(track, { direction, streams: [local] });
    for (const kind of mode === "send" ? [] : modality.split("-")) {
      const sends = local.getTracks().some((track) => track.kind === kind);
      if (!sends) pc.addTransceiver(kind, { direction: "recvonly" });
    }
    const channel = (this.#channel = pc.createDataChannel("text"));
    channel.onopen = () => channel.send("handshake");
    channel.onmessage = ({ data }) => this.#host.onmessage(data);

    pc.ontrack = ({ track }) => this.#host.ontrack(track);
    pc.onicecandidate = ({ candidate }) => candidate && this.#trickle(candidate);
    pc.onicecandidateerror = ({ errorCode, errorText, url }) => this.#problem(errorCode, errorText, url);
    let giveUp;
    const up = new Promise((resolve, reject) => {
      giveUp = () => reject(this.#iceFailed());
      pc.onconnectionstatechange = () => this.#follow(resolve, giveUp);
    });
    up.catch(() => {}); // it is awaited below

    await pc.setLocalDescription();
    const { sdp } = pc.localDescription;
    const resume = await comingBack(this.#host, sdp);
    const answer = await post({ sdp, type: "offer", webrtc_id: id, ...(resume && { resume }) });
    if (signal.aborted) return;
    if (answer.type !== "answer" || !answer.sdp) throw new CallError("The server's answer was not understood.");
    Object.assign(permit, answer.resume);
    await pc.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    await this.#setParameters();
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting.forEach((candidate) => this.#trickle(candidate));
    this.#timer = setTimeout(giveUp, this.#host.limit);
    await up;
  }

  async replace(track) {
    const sender = this.#pc?.getSenders().find((one) => one.track?.kind === track.kind);
    await sender?.replaceTrack(track);
  }

  send(text) {
    if (this.#channel?.readyState !== "open") return false;
    this.#channel.send(text);
    return true;
  }

  async figures() {
    const found = { received: 0, lost: 0, sent: 0, heard: 0, roundTrip: null, jitter: null, video: null };
    for (const report of (await this.#pc?.getStats())?.values() ?? []) {
      if (report.type === "inbound-rtp") {
        found.received += report.packetsReceived ?? 0;
        found.lost += report.packetsLost ?? 0;
        if (report.kind === "audio" || found.jitter === null) found.jitter = report.jitter ?? null;
        if (report.kind === "video") {
          const { framesPerSecond = 0, frameWidth: width = 0, frameHeight: height = 0 } = report;
          found.video = { framesPerSecond, width, height };
        }
      } else if (report.type === "outbound-rtp") {
        found.sent += report.packetsSent ?? 0;
      } else if (report.type === "candidate-pair") {
        found.heard += report.bytesReceived ?? 0;
        if (report.nominated) found.roundTrip = report.currentRoundTripTime ?? found.roundTrip;
      }
    }
    return found;
  }

  /** A silent server is to acknowledge messages. If it answers by HTTP alone, the line is lost. */
  #listen() {
    const { id, onlost, post } = this.#host;
    let before, silent, answered;
    return setInterval(async () => {
      const { heard } = await this.figures();
      if (heard !== before) silent = answered = 0;
      else if (++silent > 1 && answered) return onlost(LOST);
      else this.send("handshake");
      before = heard;
      if (silent !== 2) return;
      await post({ type: "ice-candidate", webrtc_id: id, candidate: null }).catch(() => {});
      [silent, answered] = [0, true];
    }, LISTEN_EVERY);
  }

  close() {
    clearTimeout(this.#timer);
    clearInterval(this.#listening);
    if (!this.#pc) return;
    this.#pc.onconnectionstatechange = this.#pc.onicecandidate = this.#pc.ontrack = null;
    this.#pc.close();
  }

  async #setParameters() {
    const { encodings: wanted = [], ...others } = this.#host.rtpParams;
    if (!wanted.length && !Object.keys(others).length) return;
    for (const sender of this.#pc.getSenders()) {
      if (!sender.track) continue;
      const chosen = sender.getParameters();
      const encodings = chosen.encodings.map((encoding, number) => ({ ...encoding, ...wanted[number] }));
      await sender.setParameters({ ...chosen, ...others, encodings });
    }
  }

  #trickle(candidate) {
    if (this.#waiting) {
      this.#waiting.push(candidate);
      return;
    }
    const { id, post } = this.#host;
    const body = { type: "ice-candidate", webrtc_id: id, candidate: candidate.toJSON() };
    // One after the other, in the order of their priority. A lost one costs a path, not the call.
    this.#posting = this.#posting.then(() => post(body)).catch(() => {});
  }

  #follow(resolve, giveUp) {
    clearTimeout(this.#timer);
    const { onstatus, onfinish, onlost } = this.#host;
    switch (this.#pc.connectionState) {
      case "connected":
        this.#up = true;
        if (this.#host.permit.secret) this.#listening ||= this.#listen();
        onstatus("connected", "Connected.");
        resolve();
        break;
      case "disconnected":
        if (this.#up && this.#host.permit.secret) return onlost(LOST);
        onstatus("interrupted", "The line is interrupted. Waiting for it to come back …");
        this.#timer = setTimeout(() => onlost(LOST), DISCONNECTED_LIMIT);
        break;
      case "failed":
        if (this.#up) onlost(LOST);
        else giveUp();
        break;
      case "closed":
        onfinish("ended", "The server has ended the call.");
        break;
    }
  }

  get #servers() {
    return [this.#host.configuration.iceServers ?? []].flat();
  }

  #problem(code, text, url) {
    if (!this.#servers.length) return;
    const what = { 401: "refused the credentials", 701: "cannot be reached" }[code] ?? `answered ${code} ${text}`;
    this.#problems.add(`${url} ${what}`);
  }

  #iceFailed() {
    const servers = this.#servers.flatMap(({ urls }) => urls);
    const advice = this.#problems.size
      ? `Of the servers that should help, ${[...this.#problems].join(", ")}.`
      : servers.some((url) => url?.startsWith("turn"))
        ? "The TURN server did not help either; see that its address and credentials are right."
        : "A firewall or VPN may block UDP; a TURN server would help.";
    return new CallError(`No way to the server was found (ICE failed). ${advice}`, "ice_failed");
  }
}

// -- sound over a WebSocket

class WebSocketLine {
  #host;
  #socket = null;
  #up = false; // or was
  #context = null;
  #source = null;
  #node = null;
  #timer = 0;
  #clock = 0;
  #pinged = 0;
  #unanswered = 0;
  #roundTrip = null;
  #arrived = 0;
  #jitter = 0;
  #received = 0;
  #sent = 0;

  constructor(host) {
    this.#host = host;
  }

  async open(local, signal) {
    const context = (this.#context = newContext());
    await context.audioWorklet.addModule(import.meta.url);
    if (signal.aborted) return;
    this.#node = new AudioWorkletNode(context, "rtcflow-line", { outputChannelCount: [1] });
    this.#node.port.onmessage = ({ data }) => this.#speak(data);
    const heard = context.createMediaStreamDestination();
    this.#node.connect(heard);
    await this.replace(null, local);
    await this.#call();
    if (this.#host.mode !== "send") this.#host.ontrack(heard.stream.getAudioTracks()[0]);
    this.#timer = setInterval(() => this.#ping(), PING_EVERY);
    this.#host.onstatus("connected", "Connected.");
    this.#clock = setTimeout(() => this.#checkClock(), CLOCK_LIMIT);
  }

  /** Without an output device some browsers never run their audio clock. Nothing is sent then, or heard. */
  #checkClock() {
    if (this.#context.state === "running" && this.#context.currentTime > 0) return;
    const data =
      "The browser plays no sound here, so it sends none over a WebSocket either. Connect a loudspeaker or headphones, " +
      "allow sound for this page, or connect over WebRTC.";
    this.#host.onmessage(JSON.stringify({ type: "warning", data }));
  }

  async #call() {
    const url = new URL("websocket/offer", this.#host.base);
    url.protocol = url.protocol.replace("http", "ws");
    const resume = await comingBack(this.#host);
    if (resume?.proof) url.searchParams.set("resume", this.#host.id);
    const socket = (this.#socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    const wish = { codec: "pcm_s16le", sample_rate: this.#context.sampleRate, layout: "mono", binary: true, clear: true };
    if (resume) wish.resume = resume;
    socket.onopen = () => socket.send(JSON.stringify({ event: "start", websocket_id: this.#host.id, ...wish }));
    return new Promise((resolve, reject) => {
      setTimeout(() => reject(new CallError("The server does not answer.")), this.#host.limit);
      socket.onmessage = ({ data }) => {
        this.#unanswered = 0;
        if (data instanceof ArrayBuffer) this.#hear(data);
        else this.#read(data, resolve, reject);
      };
      socket.onclose = ({ code, reason }) => {
        const words = reason ? `: ${reason}` : "";
        if (code === 1000) this.#host.onfinish("ended", `The server has ended the call${words}.`);
        else if (this.#up) this.#host.onlost(`The line was lost${words}.`);
        else reject(new CallError(words ? `The server refused the call${words}.` : "The server does not answer.", "refused"));
      };
    });
  }

  #read(text, resolve, reject) {
    const said = JSON.parse(text);
    if (said.event === "started") resolve((this.#up = Boolean(Object.assign(this.#host.permit, said.resume))));
    if (said.event === "pong") this.#roundTrip = (performance.now() - this.#pinged) / 1000;
    else if (said.event === "clear") this.#node.port.postMessage("clear");
    else if (said.event === "message") this.#host.onmessage(said.data);
    else if (said.status === "failed") reject(refusal(said, "refused"));
    else if (!said.event) this.#host.onmessage(text);
  }

  #speak(frame) {
    if (this.#socket?.readyState !== WebSocket.OPEN || this.#socket.bufferedAmount > WEBSOCKET_BUFFER) return;
    this.#socket.send(frame);
    this.#sent += 1;
  }

  #hear(frame) {
    const now = performance.now();
    // RFC 3550 appendix A.8, for frames that leave every 20 ms
    if (this.#received) this.#jitter += (Math.abs(now - this.#arrived - 20) - this.#jitter) / 16;
    this.#arrived = now;
    this.#received += 1;
    this.#node.port.postMessage(frame, [frame]);
  }

  #ping() {
    if (++this.#unanswered > 3 && this.#host.permit.secret) return this.#host.onlost(LOST);
    this.#pinged = performance.now();
    this.#socket.send('{"event":"ping"}');
  }

  async replace(track, local) {
    this.#source?.disconnect();
    this.#source = local.getAudioTracks().length ? this.#context.createMediaStreamSource(local) : null;
    this.#source?.connect(this.#node);
  }

  send(text) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(isTyped(text) ? text : JSON.stringify({ event: "message", data: text }));
    return true;
  }

  async figures() {
    return {
      received: this.#received,
      lost: 0,
      sent: this.#sent,
      roundTrip: this.#roundTrip,
      jitter: this.#received ? this.#jitter / 1000 : null,
      video: null,
    };
  }

  close(quietly) {
    clearInterval(this.#timer);
    clearTimeout(this.#clock);
    if (this.#socket) {
      this.#socket.onmessage = this.#socket.onclose = null;
      if (!quietly && this.#socket.readyState === WebSocket.OPEN) this.#socket.send('{"event":"stop"}');
      this.#socket.close();
    }
    this.#context?.close().catch(() => {});
  }
}

/** The sound card's own rate, if the server takes it and 20 ms have whole samples. */
function newContext() {
  const context = new AudioContext();
  const { sampleRate } = context;
  context.resume().catch(() => {}); // starts at the next key or click
  if (sampleRate <= 48_000 && sampleRate % 50 === 0) return context;
  context.close();
  return new AudioContext({ sampleRate: 48_000 });
}

/** Whether a text is a data message by itself: a JSON object with a "type", and no "event". */
function isTyped(text) {
  try {
    const { type, event } = JSON.parse(text);
    return typeof type === "string" && event === undefined;
  } catch {
    return false;
  }
}

// This module is also what the browser's audio thread loads for a call over a WebSocket.
if (globalThis.registerProcessor) {
  const FRAME = sampleRate / 50;
  const AHEAD = 3 * FRAME; // samples before playing begins: what the network may be late
  const MOST = sampleRate; // beyond this the oldest are dropped

  registerProcessor(
    "rtcflow-line",
    class extends AudioWorkletProcessor {
      #frame = new Int16Array(FRAME);
      #filled = 0;
      #queue = [];
      #queued = 0;
      #at = 0; // in the first of the queue
      #playing = false;

      constructor() {
        super();
        this.port.onmessage = ({ data }) => (data === "clear" ? this.#clear() : this.#put(new Int16Array(data)));
      }

      process([[heard]], [[spoken]]) {
        for (const sample of heard ?? []) this.#hear(sample);
        for (let i = 0; i < spoken.length; i++) spoken[i] = this.#next();
        return true;
      }

      #hear(sample) {
        this.#frame[this.#filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
        if (this.#filled < FRAME) return;
        this.port.postMessage(this.#frame.buffer, [this.#frame.buffer]);
        this.#frame = new Int16Array(FRAME);
        this.#filled = 0;
      }

      #put(samples) {
        this.#queue.push(samples);
        this.#queued += samples.length;
        while (this.#queued > MOST) this.#drop();
        this.#playing ||= this.#queued >= AHEAD;
      }

      #next() {
        if (!this.#playing) return 0;
        const sample = this.#queue[0][this.#at++] / 32768;
        if (this.#at === this.#queue[0].length) this.#drop();
        if (!this.#queue.length) this.#playing = false;
        return sample;
      }

      #drop() {
        this.#queued -= this.#queue.shift().length;
        this.#at = 0;
      }

      #clear() {
        this.#queue = [];
        this.#queued = this.#at = 0;
        this.#playing = false;
      }
    },
  );
}

export class LevelMeter {
  #context = new AudioContext();
  #analyser = this.#context.createAnalyser();
  #samples;

  constructor(stream) {
    this.#analyser.fftSize = 2048;
    this.#samples = new Float32Array(this.#analyser.fftSize);
    this.#context.createMediaStreamSource(stream).connect(this.#analyser);
    this.#context.resume().catch(() => {}); // as in newContext
  }

  read() {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    let sum = 0;
    for (const sample of this.#samples) sum += sample * sample;
    return Math.sqrt(sum / this.#samples.length);
  }

  close() {
    this.#context.close().catch(() => {});
  }
}

// The browser client of rtcflow: one ES module, no dependencies.
//
//   import { Call } from "./rtcflow.js";
//   const call = new Call({ url: "webrtc/offer" });
//   call.addEventListener("track", (event) => { audio.srcObject = event.detail.stream; });
//   call.addEventListener("message", (event) => console.log(event.detail.type, event.detail.data));
//   await call.start();          // asks for the microphone; resolves when sound can flow
//   call.stop();
//
// Events, each with its facts in `event.detail`:
//   status   { status, words }   "idle" "asking" "connecting" "connected" "interrupted" "ended" "failed"
//   track    { track, stream }   media of the server
//   message  { type, data }      from the server's data channel
//   ended    { failed, words }   once for each start()

/** An error whose message can be shown to a person as it is. */
export class CallError extends Error {
  constructor(words, code = "failed") {
    super(words);
    this.name = "CallError";
    this.code = code;
  }
}

const MICROPHONE_WORDS = {
  NotAllowedError: "The microphone was refused. Allow it for this page (the icon beside the address), then press Start again.",
  SecurityError: "The browser does not let this page use the microphone.",
  NotFoundError: "No microphone was found. Plug one in, then press Start again.",
  NotReadableError: "The microphone is in use by another program, or the system holds it back.",
  OverconstrainedError: "The chosen microphone is not there any more. Choose another.",
  AbortError: "The microphone could not be opened.",
};

const ICE_FAILED =
  "No way to the server was found (ICE failed). A firewall or VPN may block UDP; a TURN server would help.";

const DISCONNECTED_LIMIT = 15000; // ms without a path after which the call is given up; ICE may still heal before that
const CONNECT_LIMIT = 20000; // ms from the answer to a working path

const LIVE = new Set(["asking", "connecting", "connected", "interrupted"]);

export class Call extends EventTarget {
  #options;
  #pc = null;
  #channel = null;
  #local = null;
  #timer = 0;
  #waiting = null; // candidates found before the server knows this call, then null
  #posting = Promise.resolve();
  #previous = null;
  #abort = null;

  /**
   * @param {object} options
   * @param {string} options.url The offer route.
   * @param {boolean|object} options.audio false, true, or constraints for the microphone.
   * @param {boolean|object} options.video false, true, or constraints for the camera.
   * @param {RTCConfiguration|function} options.rtcConfiguration For example { iceServers: [...] }, or a function (async
   *   or not) that is asked for it at each start.
   * @param {object} options.headers Further headers of each request, for example Authorization.
   */
  constructor({ url = "webrtc/offer", audio = true, video = false, rtcConfiguration = {}, headers = {} } = {}) {
    super();
    this.#options = { url, audio, video, rtcConfiguration, headers };
    this.id = "";
    this.status = "idle";
  }

  /** The microphone (and camera) of this call, once started. */
  get localStream() {
    return this.#local;
  }

  /** Whether a call is being made or is up. */
  get live() {
    return LIVE.has(this.status);
  }

  /** Call. Resolves when media can flow; rejects with a CallError that says in words why not. */
  async start() {
    if (this.live) throw new CallError("This call is already under way.", "already_started");
    this.id = randomId();
    this.#previous = null;
    this.#abort = new AbortController();
    const abort = this.#abort;
    try {
      this.#say("asking", "Waiting for the microphone …");
      const local = await openMicrophone(this.#options);
      if (abort.signal.aborted) {
        stopTracks(local);
        return;
      }
      this.#local = local;
      this.#say("connecting", "Connecting …");
      await this.#connect(abort.signal);
    } catch (error) {
      if (abort.signal.aborted) return;
      const known = error instanceof CallError ? error : new CallError(String(error.message || error));
      this.#finish("failed", known.message);
      throw known;
    }
  }

  /** Hang up. */
  stop(words = "The call has ended.") {
    this.#abort?.abort();
    this.#finish("ended", words);
  }

  /** Send nothing of the microphone while `muted`. */
  mute(muted) {
    for (const track of this.#local?.getAudioTracks() ?? []) track.enabled = !muted;
  }

  /** Send a message to the handler: a string, or an object that becomes JSON. */
  send(message) {
    if (this.#channel?.readyState !== "open") throw new CallError("Messages can be sent while the call is up.", "not_open");
    this.#channel.send(typeof message === "string" ? message : JSON.stringify(message));
  }

  /**
   * The line's figures since the last call of this method, or null before there are any.
   * Times in seconds, `loss` from 0 to 1.
   */
  async statistics() {
    if (!this.#pc) return null;
    const now = { received: 0, lost: 0, sent: 0, bytesReceived: 0, roundTrip: null, jitter: null, level: null };
    for (const report of (await this.#pc.getStats()).values()) {
      if (report.type === "inbound-rtp" && report.kind === "audio") {
        now.received += report.packetsReceived ?? 0;
        now.lost += report.packetsLost ?? 0;
        now.bytesReceived += report.bytesReceived ?? 0;
        now.jitter = report.jitter ?? null;
        now.level = report.audioLevel ?? null;
      } else if (report.type === "outbound-rtp" && report.kind === "audio") {
        now.sent += report.packetsSent ?? 0;
      } else if (report.type === "candidate-pair" && report.nominated && report.currentRoundTripTime !== undefined) {
        now.roundTrip = report.currentRoundTripTime;
      }
    }
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
      bytesReceived: now.bytesReceived,
      audioLevel: now.level,
    };
  }

  async #connect(signal) {
    const { rtcConfiguration } = this.#options;
    const configuration = typeof rtcConfiguration === "function" ? await rtcConfiguration() : rtcConfiguration;
    if (signal.aborted) return;
    const pc = new RTCPeerConnection(configuration);
    this.#pc = pc;
    this.#waiting = [];
    for (const track of this.#local.getTracks()) pc.addTrack(track, this.#local);
    if (!this.#options.audio) pc.addTransceiver("audio", { direction: "recvonly" });

    const channel = pc.createDataChannel("text");
    this.#channel = channel;
    channel.onopen = () => channel.send("handshake");
    channel.onmessage = (event) => this.#read(event.data);

    pc.ontrack = ({ track, streams }) => this.#tell("track", { track, stream: streams[0] ?? new MediaStream([track]) });
    pc.onicecandidate = ({ candidate }) => candidate && this.#trickle(candidate);
    const up = new Promise((resolve, reject) => {
      pc.onconnectionstatechange = () => this.#follow(pc, resolve, reject);
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    up.catch(() => {}); // it may fail while the answer is still awaited; it is awaited below

    await pc.setLocalDescription();
    const answer = await this.#post({ sdp: pc.localDescription.sdp, type: "offer", webrtc_id: this.id }, signal);
    if (signal.aborted) return;
    if (answer.type !== "answer" || !answer.sdp) throw new CallError("The server's answer was not understood.");
    await pc.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting.forEach((candidate) => this.#trickle(candidate));
    this.#timer = setTimeout(() => this.#fail(ICE_FAILED), CONNECT_LIMIT);
    await up;
  }

  #follow(pc, resolve, reject) {
    if (pc !== this.#pc) return;
    clearTimeout(this.#timer);
    switch (pc.connectionState) {
      case "connected":
        this.#say("connected", "Connected. Speak.");
        resolve();
        break;
      case "disconnected":
        this.#say("interrupted", "The line is interrupted. Waiting for it to come back …");
        this.#timer = setTimeout(() => this.#fail("The line was lost."), DISCONNECTED_LIMIT);
        break;
      case "failed":
        if (this.status === "connecting") reject(new CallError(ICE_FAILED, "ice_failed"));
        else this.#fail("The line was lost.");
        break;
      case "closed":
        this.#finish("ended", "The server has ended the call.");
        break;
      default: // "new" and "connecting" say nothing that is not said already
    }
  }

  #fail(words) {
    this.#finish("failed", words);
  }

  #read(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      message = { type: "text", data: text };
    }
    const { type = "text", data = message.message } = message;
    this.#tell("message", { type, data });
    if (type === "end_stream") this.#finish("ended", data ? `The server has ended the call: ${data}` : undefined);
    if (type === "update_connection" && data === "closed") this.#finish("ended", "The server has ended the call.");
  }

  #trickle(candidate) {
    if (this.#waiting) {
      this.#waiting.push(candidate);
      return;
    }
    const body = { type: "ice-candidate", webrtc_id: this.id, candidate: candidate.toJSON() };
    // One after the other: the order of candidates is that of their priority. A lost one costs a path, not the call.
    this.#posting = this.#posting.then(() => this.#post(body, this.#abort?.signal)).catch(() => {});
  }

  async #post(body, signal) {
    let response;
    try {
      response = await fetch(this.#options.url, {
        method: "POST",
        headers: { "Content-Type": "application/json", ...this.#options.headers },
        body: JSON.stringify(body),
        signal,
      });
    } catch (error) {
      if (signal?.aborted) return {};
      throw new CallError("The server does not answer. Is it running?", "unreachable");
    }
    const result = await response.json().catch(() => ({}));
    if (!response.ok || result.status === "failed") {
      const { error = `http_${response.status}`, message } = result.meta ?? {};
      throw new CallError(message ? `The server refused the call: ${message}` : `The server refused the call (${error}).`, error);
    }
    return result;
  }

  #finish(status, words = "The call has ended.") {
    if (!this.live) return;
    clearTimeout(this.#timer);
    const pc = this.#pc;
    this.#pc = null;
    this.#channel = null;
    if (pc) {
      pc.onconnectionstatechange = pc.onicecandidate = pc.ontrack = null;
      pc.close();
    }
    stopTracks(this.#local);
    this.#local = null;
    this.#abort?.abort();
    this.#say(status, words);
    this.#tell("ended", { failed: status === "failed", words });
  }

  #say(status, words) {
    this.status = status;
    this.#tell("status", { status, words });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

async function openMicrophone({ audio, video }) {
  if (!audio && !video) return new MediaStream();
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new CallError("Browsers open the microphone only on https:// pages and on localhost. Open this page that way.", "insecure");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ audio, video });
  } catch (error) {
    throw new CallError(MICROPHONE_WORDS[error.name] ?? `The microphone could not be opened: ${error.message}`, error.name);
  }
}

function stopTracks(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Reads how loud a stream is: `read()` gives the RMS of the last 40 ms, 0 to 1. `close()` it when done. */
export class LevelMeter {
  #context = new AudioContext();
  #analyser = this.#context.createAnalyser();
  #samples;

  constructor(stream) {
    this.#analyser.fftSize = 2048;
    this.#samples = new Float32Array(this.#analyser.fftSize);
    this.#context.createMediaStreamSource(stream).connect(this.#analyser);
    this.#context.resume().catch(() => {}); // starts by itself at the next key or click where the browser insists
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

"""The page in a headless Chromium: what it shows, asks, says and keeps to. One server and one browser for all tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import chromium
from serving import serving

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(chromium.find() is None, reason="chromium is not installed"),
    pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed"),
]

DESK = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
CALL = "document.getElementById('call').dataset"
CONNECTED = f"{CALL}.status === 'connected'"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server with the streams of page_app.py."""
    with serving(tmp_path_factory.mktemp("server"), "serve", "page_app:app") as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser whose default profile may use its two cameras and its microphone, in which somebody talks."""
    folder = tmp_path_factory.mktemp("browser")
    speech = folder / "speech.wav"
    subprocess.run(["espeak-ng", "-w", str(speech), "Good morning, how are you today?"], check=True, timeout=150)
    flags = (
        "--deny-permission-prompts",
        "--use-fake-device-for-media-stream=device-count=2,fps=30",
        f"--use-file-for-fake-audio-capture={speech}",
    )
    with chromium.chromium(folder, *flags) as browser:
        browser.call("Browser.grantPermissions", permissions=["audioCapture", "videoCapture"])
        yield browser


@pytest.fixture
def visit(browser, url):
    """Open a page of the server; afterwards it is closed, and nothing has gone wrong in its console."""
    pages = []

    def open_page(path: str, *, script: str = "", context: str | None = None, **metrics):
        pages.append(browser.open(url + path, script=script, context=context, **(metrics or DESK)))
        return pages[-1]

    browser.logs.clear()
    yield open_page
    for page in pages:
        page.close()
    assert not [line for line in browser.logs if "Content Security Policy" in line or "exception" in line], browser.logs


def text(page, name: str) -> str:
    return page.evaluate(f"document.getElementById({name!r}).textContent")


def start(page) -> None:
    page.click("#toggle")
    page.wait_for(CONNECTED)


CHOOSE = """((selector, value) => {
    const field = document.querySelector(selector);
    field.value = value;
    field.dispatchEvent(new Event('change', { bubbles: true }));
})('%s', '%s')"""

PIXELS = """(() => ['preview', 'back'].map(id => {
    const video = document.getElementById(id);
    const canvas = new OffscreenCanvas(1, 1), pen = canvas.getContext('2d');
    pen.drawImage(video, 0, video.videoHeight / 2, 1, 1, 0, 0, 1, 1);
    return Array.from(pen.getImageData(0, 0, 1, 1).data).slice(0, 3);
}))()"""
"""A pixel of each video, at the left edge, where the test picture has its ground."""
NEGATIVE = (
    f"(([seen, back]) => seen[1] > 50 && seen.every((value, i) => Math.abs(255 - value - back[i]) < 40))({PIXELS})"
)
ALIKE = f"(([seen, back]) => seen[1] > 50 && seen.every((value, i) => Math.abs(value - back[i]) < 40))({PIXELS})"


def test_pictures_come_back_as_the_function_makes_them(visit):
    """The camera is previewed, what comes back is its negative, and the form's choice changes that while it runs."""
    page = visit(
        "/look/",
        script="""window.set = [];
            const stock = RTCRtpSender.prototype.setParameters;
            RTCRtpSender.prototype.setParameters = function (given) {
                set.push(given);
                return stock.call(this, given);
            };
        """,
    )
    start(page)
    page.wait_for(NEGATIVE)
    page.wait_for("document.getElementById('status').textContent === 'Connected.'")  # it listens to nothing
    page.evaluate(CHOOSE % ("select[name=how]", '"plain"'))
    page.wait_for(ALIKE)
    # The stream's track_constraints and rtp_params were obeyed.
    assert page.evaluate("['preview', 'back'].map(id => document.getElementById(id).videoWidth)") == [320, 320]
    (given,) = page.evaluate("set")
    assert given["degradationPreference"] == "maintain-framerate"
    assert given["encodings"][0]["maxBitrate"] == 900000
    page.wait_for("document.getElementById('picture-rate').textContent.startsWith('320 × 240')")
    page.click("#hide")
    page.wait_for(f"{PIXELS}.flat().every(value => value < 40)")  # black
    assert page.evaluate("document.getElementById('hide').getAttribute('aria-pressed')") == "true"


def test_devices_arguments_messages_and_outputs(visit):
    """On a phone, by keys: devices are changed during a call; what the handler asks, is told and puts out is seen."""
    page = visit("/mirror/", **PHONE)
    assert page.evaluate("document.querySelector('.arguments').hidden")
    page.press("Tab", 9)
    page.press("Enter", 13, "\r")
    page.wait_for(CONNECTED)
    track = "document.getElementById('preview').srcObject.get{0}Tracks()[0].label"
    for select, kind in (("microphone", "Audio"), ("camera", "Video")):
        before = page.evaluate(track.format(kind))
        option = page.wait_for(
            f"Array.from(document.getElementById('{select}').options).find(option => option.value && option.text !== "
            f"{json.dumps(before)})?.value"
        )
        page.evaluate(CHOOSE % (f"#{select}", option))
        page.wait_for(f"{track.format(kind)} !== {json.dumps(before)}")
    # The handler asks for its arguments, which nobody has described.
    page.wait_for("!document.querySelector('.arguments').hidden && document.activeElement.id === 'json'")
    page.call("Input.insertText", text='"French", 0.7')
    page.press("Enter", 13, "\r")
    page.wait_for("document.getElementById('outputs').textContent.includes('[\"French\",0.7]')")
    page.evaluate("document.getElementById('words').focus()")
    page.call("Input.insertText", text='{"x": 1}')
    page.press("Enter", 13, "\r")
    page.wait_for("document.getElementById('outputs').textContent.includes('{\"x\": 1}')")
    page.wait_for("document.getElementById('log').textContent.includes('understood')")
    page.wait_for(f"Number({CALL}.heardPeak) > 0.01")  # what the new microphone hears
    page.wait_for("document.getElementById('back').videoWidth > 0")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.click("#mute")
    assert page.evaluate("document.getElementById('preview').srcObject.getAudioTracks()[0].enabled") is False
    page.click("#toggle")
    page.wait_for(f"{CALL}.status === 'ended'")


FUSSY_DEVICES = """
    window.opened = [];
    window.fussy = "";
    const stock = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => {
        const live = opened.filter((track) => track.readyState === "live" && wanted[track.kind]).length;
        if (fussy === "gone") throw new DOMException("no such device", "OverconstrainedError");
        if (fussy === "busy" && live) throw new DOMException("in use", "NotReadableError");
        const stream = await stock(wanted);
        opened.push(...stream.getTracks());
        return stream;
    };
"""


@pytest.mark.parametrize("transport", ["webrtc", "websocket"])
def test_a_device_that_cannot_be_opened_leaves_the_old_one(visit, transport):
    """The call goes on with what it had, in words and in the list; a device that can be opened once is closed first."""
    page = visit("/mirror/", script=FUSSY_DEVICES)
    page.evaluate(CHOOSE % ("#transport", transport))
    start(page)
    track = "document.getElementById('preview').srcObject.get{0}Tracks()[0]"
    kinds = [("microphone", "Audio"), ("camera", "Video")] if transport == "webrtc" else [("microphone", "Audio")]
    for select, kind in kinds:
        before = page.evaluate(track.format(kind) + ".id")
        label = page.evaluate(track.format(kind) + ".label")
        option = page.wait_for(
            f"Array.from(document.getElementById('{select}').options).find(option => option.value && option.text !== "
            f"{json.dumps(label)})?.value"
        )
        page.evaluate("window.fussy = 'gone'")
        page.evaluate(CHOOSE % (f"#{select}", option))
        page.wait_for("!document.getElementById('trouble').hidden")
        assert page.evaluate(f"document.getElementById('{select}').value") == ""
        assert page.evaluate(f"{track.format(kind)}.readyState") == "live"
        assert page.evaluate(f"{track.format(kind)}.id") == before
        page.evaluate("window.fussy = 'busy'")
        page.evaluate(CHOOSE % (f"#{select}", option))
        page.wait_for(f"{track.format(kind)}.id !== {json.dumps(before)}")
        page.wait_for(f"opened.filter(it => it.kind === '{kind.lower()}' && it.readyState === 'live').length === 1")
        assert page.evaluate(f"{track.format(kind)}.readyState") == "live"
        assert text(page, "trouble") == ""
        page.evaluate("window.fussy = ''")
        page.evaluate(CHOOSE % (f"#{select}", '""'))
        page.wait_for(f"opened.filter(it => it.kind === '{kind.lower()}').length === 3")
        page.wait_for(f"opened.filter(it => it.kind === '{kind.lower()}' && it.readyState === 'live').length === 1")
    page.wait_for(f"Number({CALL}.heardPeak) > 0.01")
    assert page.evaluate(CONNECTED)
    page.click("#toggle")
    page.wait_for(f"{CALL}.status === 'ended'")


def test_a_call_over_a_websocket(visit):
    """The page's other way: sound there and back, its figures, messages, and an orderly end."""
    page = visit("/echo/")
    page.evaluate(CHOOSE % ("#transport", "websocket"))
    start(page)
    page.wait_for(f"Number({CALL}.heardPeak) > 0.05")
    page.wait_for(f"Number({CALL}.packetsReceived) > 50")
    page.wait_for("document.getElementById('round-trip').textContent.includes('ms')")
    assert page.evaluate(
        "performance.getEntriesByType('resource').every(entry => !entry.name.endsWith('webrtc/offer'))"
    )
    page.click("#toggle")
    page.wait_for(f"{CALL}.status === 'ended'")
    assert text(page, "trouble") == ""


KEEP = """window.lines = []; window.said = [];
    for (const name of ['RTCPeerConnection', 'WebSocket']) {
        const stock = window[name];
        window[name] = class extends stock { constructor(...all) { super(...all); window.lines.push(this); } };
    }
    addEventListener('load', () => new MutationObserver(() => {
        const [words, quality] = ['status', 'quality'].map((id) => document.getElementById(id).textContent);
        window.said.push(words + quality);
    }).observe(document.getElementById('status'), { childList: true, characterData: true, subtree: true }));
"""
LOSE = {
    "webrtc": """Object.defineProperty(lines[0], 'connectionState', { get: () => 'disconnected' });
        lines[0].onconnectionstatechange()""",
    "websocket": "lines[0].close(3000)",
}


UNREACHABLE = """for (const name of ['RTCPeerConnection', 'WebSocket']) {
        window[name] = class extends window[name] { constructor() { throw Error('nobody answers'); } };
    }"""
LIVE_CALLS = "fetch('healthz').then((response) => response.json()).then(({ calls }) => calls)"


@pytest.mark.parametrize("transport", ["webrtc", "websocket"])
def test_the_page_comes_back_to_a_call_whose_line_was_lost(visit, transport):
    """It says "Reconnecting", goes on over another line, and is heard; the call is the same.

    The second time it cannot come back. Stop ends the call at the server, too, which would wait for five minutes.
    """
    page = visit("/patient/", script=KEEP)
    page.evaluate(CHOOSE % ("#transport", transport))
    start(page)
    page.wait_for(f"Number({CALL}.heardPeak) > 0.05")
    page.evaluate(LOSE[transport])
    page.wait_for(f"lines.length === 2 && {CONNECTED}")
    assert page.evaluate("said.some((words) => words.startsWith('Reconnecting') && words.endsWith('–'))")
    page.evaluate(f"delete {CALL}.packetsReceived && delete {CALL}.heardPeak")
    page.wait_for(f"Number({CALL}.packetsReceived) > 20")
    page.wait_for(f"Number({CALL}.heardPeak) > 0.05")
    page.wait_for(f"!('stale' in {CALL})")
    page.evaluate(f"{UNREACHABLE} {LOSE[transport].replace('lines[0]', 'lines[1]')}; lines[1].close = () => {{}}; 0")
    page.wait_for(f"{CALL}.status === 'interrupted'")
    assert page.evaluate(LIVE_CALLS) == 1
    page.click("#toggle")
    page.wait_for(f"{CALL}.status === 'ended'")
    page.wait_for(f"{LIVE_CALLS}.then((calls) => calls === 0)")
    assert text(page, "trouble") == ""
    # The old call sleeps 2 s at most before it tries again. It must not end a new one then.
    page.evaluate(
        "for (const name of ['RTCPeerConnection', 'WebSocket']) window[name] = Object.getPrototypeOf(window[name]); 0"
    )
    page.click("#toggle")
    page.wait_for(CONNECTED)
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 2100))")
    assert page.evaluate(CONNECTED)


def test_a_refused_microphone_or_camera_is_told_in_words(visit, browser):
    """What was refused, and what to do; Start is there again."""
    context = browser.call("Target.createBrowserContext")["browserContextId"]
    for path, word in (("/echo/", "microphone"), ("/look/", "camera"), ("/mirror/", "microphone or camera")):
        page = visit(path, context=context)
        page.click("#toggle")
        page.wait_for(f"{CALL}.status === 'failed'")
        assert text(page, "trouble").startswith(f"The {word} was refused. Allow it for this page")
        assert text(page, "status") == "Not connected."
        assert text(page, "toggle-word") == "Start"


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/nowhere/", "A firewall or VPN may block UDP; a TURN server would help."),
        (
            "/unreachable/",
            "Of the servers that should help, turn:nowhere.invalid:3478?transport=tcp cannot be reached.",
        ),
    ],
)
def test_a_failing_ice_is_told_in_words(visit, path, advice):
    """Where no pair of candidates works, the page says so and what would help."""
    # A browser gives up after 20 s and more; here its time runs faster.
    page = visit(path, script="const wait = setTimeout; setTimeout = (what, ms) => wait(what, ms / 20);")
    page.click("#toggle")
    page.wait_for(f"{CALL}.status === 'failed'")
    assert text(page, "trouble") == f"No way to the server was found (ICE failed). {advice}"


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_first_paint_stays_where_it_is(visit, size):
    """No element of any page moves once it is shown, and none is wider than the screen."""
    for path in ("/echo/", "/look/", "/mirror/"):
        page = visit(path, **size)
        page.evaluate(
            """new Promise(resolve => {
                window.shift = 0;
                new PerformanceObserver(list => list.getEntries().forEach(entry => { shift += entry.value; }))
                    .observe({ type: 'layout-shift', buffered: true });
                new PerformanceObserver((list, self) => { self.disconnect(); setTimeout(resolve, 200); })
                    .observe({ type: 'paint', buffered: true });
            })"""
        )
        assert page.evaluate("shift") < 0.001  # a tenth of a pixel that a late font moves is nothing; 0.1 is "good"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("document.body.prepend(document.createElement('hr'))")
    page.wait_for("shift > 0.001")  # so it would have been seen


def test_keys_and_screen_readers_reach_everything(visit):
    """Tab walks through all controls in the order of the page, each has a visible focus, and a name in words."""
    page = visit("/mirror/")
    walked = []
    while len(walked) < 20:
        page.press("Tab", 9)
        here = page.evaluate(
            "(it => [it.id || it.tagName, it.tagName === 'BODY' || getComputedStyle(it).outlineStyle !== 'none'])"
            "(document.activeElement)"
        )
        assert here[1], f"{here[0]} does not show that it has the focus"
        if here[0] == "BODY":
            break
        walked.append(here[0])
        if here[0] == "SUMMARY":
            page.press("Enter", 13, "\r")
    assert walked == ["toggle", "mute", "hide", "SUMMARY", "microphone", "camera", "speaker", "SUMMARY", "log-frame"]
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = {
        node["name"]["value"]
        for node in nodes
        if node.get("role", {}).get("value") in {"button", "combobox", "textbox", "log", "image", "status", "Video"}
        and not node["ignored"]
        and "name" in node
    }
    assert {"Start", "Mute", "Camera off", "Microphone", "Camera", "Speaker", "Message"} <= named
    unnamed = [
        node
        for node in nodes
        if node.get("role", {}).get("value") in {"button", "combobox", "textbox", "checkbox", "image", "log"}
        and not node["ignored"]
        and not node.get("name", {}).get("value")
    ]
    assert not unnamed


def test_the_page_keeps_to_a_strict_policy(visit, browser):
    """No inline script or style has any effect on it, nothing is loaded from elsewhere, and it weighs at most 60 KB."""
    page = visit("/mirror/")
    page.evaluate(
        """(() => {
            const script = document.createElement('script');
            script.textContent = 'window.injected = true';
            document.head.append(script);
            document.body.setAttribute('style', 'opacity: 0.5');
        })()"""
    )
    assert page.evaluate("[window.injected ?? null, getComputedStyle(document.body).opacity]") == [None, "1"]
    assert len([line for line in browser.logs if "Content Security Policy" in line]) == 2
    browser.logs.clear()
    sizes = page.evaluate(
        "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
        ".map(entry => [entry.name, entry.decodedBodySize])"
    )
    assert {name.split("/")[2] for name, _ in sizes} == {page.evaluate("location.host")}
    assert sum(size for _, size in sizes) <= 60_000


def test_the_example_of_the_documentation_talks(visit):
    """The page of ten lines in the documentation calls, is heard, and hangs up."""
    page = visit("/example")
    page.click("button")
    page.wait_for("document.querySelector('audio').srcObject?.getAudioTracks().length === 1")
    page.wait_for("document.querySelector('output').textContent === 'connected'")
    page.wait_for("document.querySelector('audio').currentTime > 0.2")
    page.click("button")
    page.wait_for("document.querySelector('output').textContent === 'ended'")


# -- the stage


def test_the_page_names_what_people_talk_to_and_shows_what_was_said(visit):
    """Title and description are the stream's, as text; a transcript has two sides, and strikes what was not heard."""
    page = visit("/clock/")
    assert page.evaluate("document.title") == "Ask the <clock>"
    assert page.evaluate("document.querySelector('h1').textContent") == "Ask the <clock>"
    assert text(page, "description") == "It knows the time in every town."
    assert page.evaluate("document.querySelector('.transcript').hidden")
    page.click("#toggle")
    page.wait_for("document.querySelector('#transcript s') !== null")
    assert page.evaluate(
        "Array.from(document.querySelectorAll('#transcript li'), it => [it.className, it.textContent])"
    ) == [
        ["user", "What is the time?"],
        ["assistant", "It is ten past nine in Lisbon."],
    ]
    assert page.evaluate("document.querySelector('#transcript s').textContent") == " nine in Lisbon."
    page.wait_for("document.getElementById('status').textContent === 'Thinking …'")
    page.wait_for("document.getElementById('quality').textContent !== ''")
    page.click("#toggle")
    page.wait_for(f"{CALL}.status === 'ended'")
    assert page.evaluate(f"!('stale' in {CALL}) && !('state' in {CALL})")


def test_an_agent_shows_its_states_and_both_sides_by_itself(visit):
    """A `VoiceAgent` as it is: listening, thinking, speaking; the words of both; what is typed is answered."""
    page = visit("/agent/", script=STATES)
    page.click("#toggle")
    rows = "Array.from(document.querySelectorAll('#transcript li'), it => [it.className, it.textContent])"
    page.wait_for(f"{rows}.length > 1")
    (side, said), (other_side, answer), *_ = page.evaluate(rows)
    assert (side, said, other_side) == ("user", "Good morning.", "assistant")
    assert answer.startswith("Hello, I hear you.")
    page.wait_for("['listening', 'thinking', 'speaking'].every((state) => window.states.includes(state))")
    page.evaluate("document.getElementById('words').focus()")
    page.call("Input.insertText", text="What time is it?")
    page.press("Enter", 13, "\r")
    page.wait_for(
        "Array.from(document.querySelectorAll('#transcript .user')).some((it) => it.textContent === 'What time is it?')"
    )
    assert text(page, "log") == "", "the state and the transcript say it all"
    page.click("#toggle")


STATES = """
  window.states = [];
  addEventListener("DOMContentLoaded", () => {
    const call = document.getElementById("call");
    const note = () => window.states.push(call.dataset.state);
    new MutationObserver(note).observe(call, { attributeFilter: ["data-state"] });
  });
"""

FREEZE = """
  const stock = RTCPeerConnection.prototype.getStats;
  let last = null;
  RTCPeerConnection.prototype.getStats = async function () {
    if (!window.frozen || !last) last = await stock.call(this);
    return last;
  };
"""


def test_figures_grey_out_as_soon_as_packets_stop(visit):
    """Old figures are worse than none: within two looks they are greyed, and the status says that it is interrupted."""
    page = visit("/echo/", script=FREEZE)
    page.click("#toggle")
    page.wait_for("document.getElementById('quality').textContent !== ''")
    page.wait_for(f"Number({CALL}.packetsReceived) > 50")
    page.click("#mute")
    page.wait_for("document.getElementById('status').textContent === 'You are muted.'")
    page.evaluate("window.frozen = true")
    page.wait_for(f"'stale' in {CALL}")
    assert text(page, "status").startswith("Interrupted")
    assert page.evaluate("getComputedStyle(document.querySelector('.line dl')).opacity") == "0.35"
    page.evaluate("window.frozen = false")
    page.wait_for(f"!('stale' in {CALL})")
    page.wait_for("!document.getElementById('status').textContent.startsWith('Interrupted')")
    page.click("#toggle")


SILENT = "Object.defineProperty(AudioContext.prototype, 'state', { get: () => 'suspended' });"


def test_a_browser_without_sound_says_so_over_a_websocket(visit):
    """Some browsers never run their audio clock without an output device: nothing would be sent, without a word."""
    page = visit("/echo/", script=SILENT)
    page.evaluate(CHOOSE % ("#transport", "websocket"))
    page.click("#toggle")
    page.wait_for("document.getElementById('log').textContent.includes('plays no sound')")
    page.click("#toggle")


AXE = files("axe_core_python") / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(visit, scheme):
    """axe finds nothing against WCAG 2.2 AA at three widths, before and during a call, with everything opened."""
    for path in ("/clock/", "/mirror/"):
        page = visit(path)
        still = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        page.call("Emulation.setEmulatedMedia", features=still)
        page.evaluate("document.querySelectorAll('details').forEach((it) => { it.open = true; })")
        page.evaluate(AXE.read_text(encoding="utf-8") + ";0")
        check_widths(page)
        page.click("#toggle")
        page.wait_for("document.getElementById('quality').textContent !== ''")
        check_widths(page)
        page.click("#toggle")


def check_widths(page) -> None:
    for width in (360, 390, 1280):
        page.call("Emulation.setDeviceMetricsOverride", **DESK | {"width": width, "height": 800})
        page.wait_for(f"innerWidth === {width}")
        page.evaluate(
            f"window.found = null; axe.run(document, {{ runOnly: {RULES} }}).then((r) => {{ window.found = r; }}); 0"
        )
        page.wait_for("window.found")
        found = page.evaluate("window.found.violations.map((it) => [it.id, it.nodes.map((n) => n.failureSummary)])")
        assert found == [], width
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"something sticks out at {width}"


def test_the_page_is_small():
    """All of it, as it is served: at most 60 KB. The operators' page of live calls is another one."""
    page = [path for path in (files("rtcflow") / "web").iterdir() if not path.name.startswith("calls.")]
    assert sum(path.stat().st_size for path in page) <= 60_000

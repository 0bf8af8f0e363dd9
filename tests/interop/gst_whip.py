"""A WHIP or WHEP client made of GStreamer's webrtcbin: run by the system's Python, which has its bindings.

    python gst_whip.py URL            sends a tone for two seconds
    python gst_whip.py URL --play     plays until it has heard something

Prints the answer's status, "connected", what it heard, and the status of its DELETE. `test_whip_clients.py` runs it.
"""

import sys
import time
import urllib.parse
import urllib.request

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

OPUS = "application/x-rtp,media=audio,encoding-name=OPUS,payload=111,clock-rate=48000,encoding-params=(string)2"
TONE = "audiotestsrc is-live=true ! opusenc ! rtpopuspay pt=111"
SEND = f"{TONE} ! {OPUS} ! webrtcbin name=peer bundle-policy=max-bundle"
HEAR = "rtpopusdepay ! opusdec ! audioconvert ! audio/x-raw,format=S16LE ! fakesink name=ear signal-handoffs=1"


class Client:
    def __init__(self, url, play):
        self.url, self.session, self.connected_at, self.heard = url, None, None, False
        self.loop = GLib.MainLoop()
        self.play = play
        if play:
            self.pipeline, self.peer = Gst.Pipeline(), Gst.ElementFactory.make("webrtcbin")
            self.peer.set_property("bundle-policy", GstWebRTC.WebRTCBundlePolicy.MAX_BUNDLE)
            self.pipeline.add(self.peer)
            direction = GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY
            self.peer.emit("add-transceiver", direction, Gst.Caps.from_string(OPUS))
            self.peer.connect("pad-added", self.on_pad)
        else:
            self.pipeline = Gst.parse_launch(SEND)
            self.peer = self.pipeline.get_by_name("peer")
            direction = GstWebRTC.WebRTCRTPTransceiverDirection.SENDONLY
            self.peer.emit("get-transceiver", 0).set_property("direction", direction)
        self.peer.connect("on-negotiation-needed", self.on_negotiation)
        self.peer.connect("notify::ice-gathering-state", self.on_gathering)

    def run(self):
        self.pipeline.set_state(Gst.State.PLAYING)
        GLib.timeout_add(50, self.look)
        GLib.timeout_add_seconds(20, self.loop.quit)
        self.loop.run()
        if self.session:
            request = urllib.request.Request(self.session, method="DELETE")
            with urllib.request.urlopen(request, timeout=30) as response:
                print("DELETE", response.status)
        self.pipeline.set_state(Gst.State.NULL)

    def on_negotiation(self, peer):
        def created(promise):
            reply = promise.get_reply()  # which owns the offer
            peer.emit("set-local-description", reply.get_value("offer"), Gst.Promise.new())

        peer.emit("create-offer", None, Gst.Promise.new_with_change_func(created))

    def on_gathering(self, peer, _):
        if peer.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            GLib.idle_add(self.post)

    def post(self):
        sdp = self.peer.get_property("local-description").sdp.as_text()
        headers = {"Content-Type": "application/sdp"}
        request = urllib.request.Request(self.url, sdp.encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                print("POST", response.status)
                self.session = urllib.parse.urljoin(self.url, response.headers["Location"])
                _, answer = GstSdp.SDPMessage.new_from_text(response.read().decode())
        except urllib.error.HTTPError as error:
            print("POST", error.code, error.read().decode())
            self.loop.quit()
            return False
        described = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, answer)
        self.peer.emit("set-remote-description", described, Gst.Promise.new())
        return False

    def on_pad(self, _, pad):
        ear = Gst.parse_bin_from_description(HEAR, True)
        self.pipeline.add(ear)
        ear.get_by_name("ear").connect("handoff", self.on_sound)
        ear.sync_state_with_parent()
        pad.link(ear.get_static_pad("sink"))

    def on_sound(self, _, buffer, __):
        samples = memoryview(buffer.extract_dup(0, buffer.get_size())).cast("h")
        if not self.heard and max(samples) > 1000:
            self.heard = True
            print("heard", max(samples))

    def look(self):
        state = self.peer.get_property("connection-state")
        if self.connected_at is None and state == GstWebRTC.WebRTCPeerConnectionState.CONNECTED:
            self.connected_at = time.monotonic()
            print("connected")
        if self.connected_at and (self.heard if self.play else time.monotonic() > self.connected_at + 2):
            self.loop.quit()
        return True


Gst.init(None)
Client(sys.argv[1], "--play" in sys.argv).run()

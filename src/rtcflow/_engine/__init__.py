"""The engine: aiortc, aioice and asyncio live here, in one thread of their own, and nowhere else.

    loop_thread   a thread, its loop, and calls into it from any backend
    peer      one RTCPeerConnection: negotiation, ends, close      liveness  whether the peer is still there
    audio     received packets to frames, frames to packets        video, messages   the other two media
    opus      the codec                                            offers    reading the peer's SDP
    seam      everything private of aiortc that we touch, guarded by contract tests
    ports     what a peer and its transport share                  config    the options

`rtcflow.transports.webrtc` is the public interface. Nothing of asyncio or aiortc leaves this package.
"""

"""Everything private of aiortc, aioice and pylibsrtp that rtcflow touches lives here, and nowhere else.

    gate          which datagrams reach a call                 gathering    which sockets and candidates a call has
    wire          RTP to and from the socket                   restart      ICE restarts
    seam          everything else of RTCPeerConnection         description  SDP parser and codec tables

Each use names what it relies on, and a contract test compares that with the installed release.
`tests/unit/_engine/test_seam_walls.py` fails if code outside touches such parts.
"""

"""Everything private of aiortc, aioice and pylibsrtp that rtcflow touches. Each use names what it relies on, and a
contract test holds it.
"""

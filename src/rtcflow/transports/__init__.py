"""Links to peers: in memory, over WebRTC, over WebSocket, over a telephone carrier's media stream."""

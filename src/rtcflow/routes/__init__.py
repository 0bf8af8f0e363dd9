"""The HTTP and WebSocket routes of a stream: `app` puts them together."""

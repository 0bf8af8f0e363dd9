"""The pure part of signalling and messages: bytes and dicts to typed events, and back."""

"""Admission, the live calls, their outputs: what stands between a `Stream` and its routes."""

"""Planted bugs typical of live audio, and the proof that the suite turns red on each of them."""

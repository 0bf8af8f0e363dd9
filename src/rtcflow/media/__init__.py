"""The pure part of media: values and `now` in, values out. No await, no clock, no thread, no randomness."""

"""The process that owns one device: its memory, the models in it, and the commands that run on it."""

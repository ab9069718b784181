"""Tiny real models and virtual profiles, made on the spot: what demonstrations and tests run on.

Decides the sizes and contents of the demonstration models. Knows nothing of the broker, the workers or the wire.
"""

"""A model's time and memory on this device: what is asked for, the runs, and what they add up to."""

"""Hours of mixed work with faults, and a verdict that is a proof: every command accounted for, nothing that grows."""

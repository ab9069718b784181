"""One RAM tier for the machine: weights in memory that outlives the workers which read them."""

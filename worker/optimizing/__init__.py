"""Making a model faster, smaller or truer on this device: what is tried, what it changed, what is kept and saved."""

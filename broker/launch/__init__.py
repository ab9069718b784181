"""How processes come to be: one interface, local children now."""

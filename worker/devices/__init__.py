"""The kinds of device, behind one interface."""

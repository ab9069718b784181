"""What a validation looks at and what follows from it: the files, this device, and what a run would take."""

"""The pages of `docs/` that are made, not written: tables of fields, and exchanges as they were printed."""

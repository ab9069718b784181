"""The demonstration models, one module for each family: `pipeline()`, and `single()` where people have single files."""

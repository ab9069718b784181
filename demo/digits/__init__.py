"""A model that means something: handwritten digits by name, and a reader that tells which one a picture shows."""

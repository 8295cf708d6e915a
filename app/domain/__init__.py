"""The vocabulary: models, events and errors, on the standard library alone."""

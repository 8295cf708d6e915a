"""Use cases: one public method each, over the ports, naming no vendor."""

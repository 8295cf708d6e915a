"""The front door: parse, authorise, make one call, present."""

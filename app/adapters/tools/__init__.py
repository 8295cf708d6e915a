"""The server's own tools: typed functions that a tutor may have called."""

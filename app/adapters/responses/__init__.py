"""The Conversations + Responses dialect, behind `ports.Upstream`."""

"""The Assistants dialect (threads and runs), behind `ports.Upstream`."""

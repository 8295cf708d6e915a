"""Tutor Relay: the backend between tutoring apps and the OpenAI API."""

__version__ = "0.1.0"

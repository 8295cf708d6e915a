"""Conversations that another server of the Assistants API was asked for, read from a file."""

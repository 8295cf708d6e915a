"""The Assistants API again (`/openai/v1`): a translation of `/v1`, with nothing of its own below.

A thread is a session, under the same id. Objects are made from the public bodies that `/v1`
shows, streams from the events that `/v1` sends. What the wire offers and nothing here can honour
is refused in the wire's own words, never ignored.
"""

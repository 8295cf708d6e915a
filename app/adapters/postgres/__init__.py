"""Postgres: database, run queue, event log and wake-up bus.

Locks are taken in one order everywhere: session rows by id, then the rows of their runs and
messages. Every method of the repositories runs inside the unit of work that owns it.
"""

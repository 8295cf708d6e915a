"""Side-by-side measurements of Tutor Relay; `python -m bench` prints the table.

Nothing here is imported by the application, and nothing here imports it: the relay is
measured from outside, as separate processes over loopback.
"""

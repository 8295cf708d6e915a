"""The tutor behind the sandbox: finds the mathematics in prose, solves it, explains it.

No model is involved: what can't be solved by `app.algebra` is said to be beyond it.
"""

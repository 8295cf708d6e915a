"""An upstream that speaks OpenAI's dialect, to develop and test against.

A stranger to the rest of the house: it is reached over HTTP only.
"""

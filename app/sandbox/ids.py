"""Ids as the upstream makes them: a prefix and 48 hexadecimal digits."""

import secrets


def new_id(prefix: str) -> str:
    """Make an id such as `resp_4f…`."""
    return f"{prefix}_{secrets.token_hex(24)}"


def new_file_id() -> str:
    """Make the id of a file, which has a dash where others have an underscore."""
    return f"file-{secrets.token_hex(11)}"


def new_call_id() -> str:
    """Make the id that joins a function call and its output."""
    return f"call_{secrets.token_urlsafe(18).replace('-', 'x').replace('_', 'y')}"

"""What all dialects of the vendor's wire have in common: client, raw streams, errors, values."""

"""What is outside: Postgres, and the upstream dialects."""

"""cold_starts."""

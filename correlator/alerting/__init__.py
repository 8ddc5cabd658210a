"""Alert rules over the joined data, their states, and who is told."""

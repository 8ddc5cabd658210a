"""What the readers of recordings share: opening files, scanning JSON, times, names, and building the tables."""

"""Timelines at the detail of a screen, and the same as a Chrome/Perfetto trace."""

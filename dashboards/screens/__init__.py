"""The pages: one file each, run by `main.py`."""

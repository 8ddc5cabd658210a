"""What Warpline promises, measured: `python -m bench [group]` prints a FIGURE line each."""

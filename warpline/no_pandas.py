"""Keeps pandas out of a process: to be called before anything makes a pyarrow array.

pyarrow imports pandas, where it is installed, as soon as it makes its first array: 50 MB, and a third of the CPU time that
a correlator takes to start. Nothing here needs it but the dashboard's pages, which run in Streamlit's process; in the images
of the others it is not installed.
"""

from __future__ import annotations

import sys


class _Finder:
    """A finder that finds nothing, and says of pandas that there is none."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is kept out of this process (warpline/no_pandas.py)", name=name)


def keep_out() -> None:
    """Let this process import no pandas from now on; where it has one already, nothing is done."""
    if "pandas" not in sys.modules and _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)

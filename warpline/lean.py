"""Keeps pandas out of a process that has no use for it: to be imported before anything that makes a pyarrow array.

pyarrow imports pandas, where it is installed, as soon as it makes its first array: 50 MB and most of a second of CPU time.
In a collector's image it is not installed; beside a dashboard it is.
"""

from __future__ import annotations

import sys


class _WithoutPandas:
    """A finder that finds nothing, and says of pandas that there is none."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is kept out of this process (warpline/lean.py)", name=name)


if "pandas" not in sys.modules:
    sys.meta_path.insert(0, _WithoutPandas)

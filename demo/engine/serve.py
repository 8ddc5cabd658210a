"""The API server's process: `python -m demo.engine.serve PORT DIRECTORY`. Started by `demo.engine.launch`."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from demo.engine.api import make


def main() -> None:
    """Serve on the loopback until stopped."""
    port, directory = int(sys.argv[1]), Path(sys.argv[2])
    uvicorn.run(make(directory), host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()

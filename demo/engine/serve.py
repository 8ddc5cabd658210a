"""The API server's process: `python -m demo.engine.serve PORT DIRECTORY HOST`. Started by `demo.engine.launch`."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from demo.engine.api import make


def main() -> None:
    """Serve on an address of the loopback until stopped."""
    port, directory, host = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    uvicorn.run(make(directory), host=host, port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()

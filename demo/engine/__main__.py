"""Serve the model server's double: `python -m demo.engine --port 8000`. It builds the CUDA double where that is missing."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from demo.engine import launch


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--ring-dir", type=Path, help="where the rings go; a directory of its own by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="warpline-engine-") as directory:
        environment = {} if args.ring_dir is None else {"WARPLINE_RING_DIR": str(args.ring_dir)}
        handle = launch.start(Path(directory), args.port, environment)
        print(f"serving on http://127.0.0.1:{handle.port}, engine pid {handle.engine_pid}", flush=True)
        try:
            handle.process.wait()
        except KeyboardInterrupt:
            handle.stop()


if __name__ == "__main__":
    main()

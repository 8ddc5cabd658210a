"""Make the `_pb2.py` and `_pb2.pyi` files of this folder from its `.proto` files: `python -m collectors.wire.generate`.

They are kept beside their sources, so that running needs no compiler; a test makes them again and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def generate(into: Path) -> list[Path]:
    """Write the Python modules of all `.proto` files below `into`; return their paths. Needs grpcio-tools."""
    from grpc_tools import protoc  # only developers have it

    made = []
    include = Path(protoc.__file__).parent / "_proto"
    for proto in sorted(HERE.glob("*.proto")):
        code = protoc.main(
            ["protoc", f"-I{HERE}", f"-I{include}", f"--python_out={into}", f"--pyi_out={into}", str(proto)]
        )
        if code != 0:
            raise SystemExit(code)
        made += [into / f"{proto.stem}_pb2.py", into / f"{proto.stem}_pb2.pyi"]
    return made


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for path in generate(target):
        sys.stdout.write(f"{path}\n")

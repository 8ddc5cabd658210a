"""Builds the C parts of Warpline. Each is optional: without a compiler Warpline runs on its slower Python paths."""

from pathlib import Path

from setuptools import Extension, setup

SCAN = Path("warpline/otlp/scan")

setup(
    ext_modules=[
        Extension(
            "warpline.otlp._scan",
            [str(SCAN / "scan.c")],
            depends=[str(header) for header in sorted(SCAN.glob("*.h"))],
            extra_compile_args=["-O3", "-std=gnu11", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-function"],
            optional=True,
        )
    ]
)

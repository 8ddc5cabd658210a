"""Builds the C parts of Warpline. Each is optional: without a compiler Warpline runs on its slower Python paths."""

import runpy
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

SCAN = Path("warpline/otlp/scan")
INJECT = Path("collectors/inject")


class BuildWithLibrary(build_py):
    """Puts the library that CUDA loads into the package, too. From a checkout it is built where it is first needed."""

    def run(self) -> None:
        """Build the package, and in it the library where a compiler is."""
        super().run()
        if self.editable_mode:
            return
        build = runpy.run_path(str(INJECT / "build.py"))["build"]
        try:
            build(Path(self.build_lib).absolute() / INJECT / "build")
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            self.warn(f"the library for CUDA processes was not built: {error}")


FLAGS = ["-O2", "-std=gnu11", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-function"]

setup(
    cmdclass={"build_py": BuildWithLibrary},
    ext_modules=[
        Extension(
            "warpline.otlp._scan",
            [str(SCAN / "scan.c")],
            depends=[str(header) for header in sorted(SCAN.glob("*.h"))],
            extra_compile_args=FLAGS,
            optional=True,
        ),
        Extension("correlator.storage._seen", ["correlator/storage/seen.c"], extra_compile_args=FLAGS, optional=True),
        Extension("correlator.timeline._draw", ["correlator/timeline/draw.c"], extra_compile_args=FLAGS, optional=True),
    ],
)

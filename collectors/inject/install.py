"""Lay out what goes into engines' processes in one folder, for an engine's pod to mount: `warpline inject FOLDER`.

FOLDER/libwarpline_cuda.so                  CUDA_INJECTION64_PATH names it
FOLDER/python/warpline_vllm/                PYTHONPATH names FOLDER/python: vLLM then finds the plugin by its entry point,
FOLDER/python/warpline_vllm-*.dist-info/    which an installation would write here (PyPA, "Entry points specification")
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from collectors.inject.build import NAME, SOURCES, build
from collectors.vllm_plugin import warpline_vllm
from warpline.errors import SourceError

ENTRY_POINTS = "[vllm.general_plugins]\nwarpline = warpline_vllm:register\n"
"""As in the plugin's pyproject.toml."""
_SHARED = 0o3777
"""Mode of the ring directory: engines of any user may make rings, remove their own alone, and give them to its group."""


def install(folder: Path) -> None:
    """Write the library and the plugin into `folder`, over what an earlier version left there.

    Raises SourceError where the library was not built and cannot be, OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{NAME}.new"
    shutil.copyfile(_library(), fresh)
    fresh.chmod(0o755)
    fresh.rename(folder / NAME)  # A process that has mapped the old one keeps it.
    source, python = Path(warpline_vllm.__file__).parent, folder / "python"
    shutil.rmtree(python, ignore_errors=True)
    shutil.copytree(source, python / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    version = warpline_vllm.__version__
    told = python / f"warpline_vllm-{version}.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: warpline-vllm\nVersion: {version}\n", encoding="ascii"
    )
    (told / "entry_points.txt").write_text(ENTRY_POINTS, encoding="ascii")


def open_rings(directory: Path) -> None:
    """Let engines of any user make rings in `directory`. Raises OSError where it is not ours."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(_SHARED)


def _library() -> Path:
    try:
        return build()
    except (OSError, subprocess.CalledProcessError) as error:
        built = SOURCES / "build" / NAME
        if built.exists():  # With the package; its sources may look newer, and no compiler is where it is installed.
            return built
        raise SourceError(f"{built}: not built, and cannot be here: {error}; build it with a C compiler") from None

"""Records the sample incidents: `python -m demo.incidents NAME…`, all of them by default.

Each is played as `demo/scenes.py` says, and recorded by a collector and a correlator as they run anywhere. No row is written
by hand; of the processes' rows what is fit to be published is kept (`recording.record(public=True)`). What each must lead to
is in its `incident.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo import stage
from demo.scenes import SCENES, Scene
from demo.stage import Stage
from warpline import recording, sample

_CLUSTER = """ The cluster is a double
(`demo/cluster_double.py`), watched by the collector's own client: its pods are those processes, its image is simulated.
One name stands for all engines, and one exporter tells of all GPUs (`demo/service_double.py`)."""
_HUBBLE = """ Hubble is a double
(`demo/hubble_double.py`): it tells of packets that the kernel's own filter dropped, and calls that a policy's doing."""
_BASELINE = """

The week before is the recording `{baseline}`, whose times are moved to a week before this one's:
`warpline alerts test --on sample_traces/{name} --baseline sample_traces/{baseline}`."""
SAMPLES = Path(__file__).resolve().parent.parent / "sample_traces"
_LAST_ROWS_S = 4.0
"""Time after the last request in which sources hand over what they gathered."""
Views = dict[str, dict[str, Any]]
_VIEWS: Views = {"request_summary": {}, "loss_total": {}}


def record(name: str, folder: Path) -> sample.Manifest:
    """Play a scene and write it to `folder/name`; return its manifest. Raises WarplineError where it cannot be played."""
    scene = SCENES[name]
    with stage.opened(scene.pods, scene.together, scene.hubble) as on:
        began_ns = time.time_ns()
        asyncio.run(_played(scene, on))
        time.sleep(_LAST_ROWS_S)
        about = f"{scene.about}; all real but for the GPU, which is simulated"
        until_ns = time.time_ns()
        if scene.height_s:
            began_ns, until_ns = (began_ns + second * 1_000_000_000 for second in scene.height_s)
        for old in (folder / name).glob("*.parquet"):
            old.unlink()  # A table that had rows the last time may have none now.
        return recording.record(on.client, folder / name, began_ns, until_ns, about, public=True)


async def _played(scene: Scene, on: Stage) -> None:
    async with on.web:
        await scene.play(on)


def describe(name: str, folder: Path) -> None:
    """Write what the rules must make of a recorded scene beside it, and name its golden views in its manifest."""
    scene, path = SCENES[name], folder / name / "manifest.json"
    said: dict[str, Any] = {
        "fires": list(scene.fires),
        "thresholds": scene.thresholds,
        "why_thresholds": scene.why_thresholds,
    }
    if scene.baseline:
        said["baseline"] = scene.baseline
    if scene.finding:
        said["finding"] = scene.finding
    if scene.settings:
        said |= {"settings": scene.settings, "why_settings": scene.why_settings}
    (folder / name / "incident.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    (folder / name / "README.md").write_text(_readme(name, scene), encoding="utf-8")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps(manifest | {"expected": _VIEWS | {view: {} for view in scene.views}}, indent=2) + "\n",
        encoding="utf-8",
    )


def _readme(name: str, scene: Scene) -> str:
    fires = "\n".join(f"- `{rule}`" for rule in scene.fires) or "- no rule at all"
    if scene.settings:
        changed = ", ".join(f"`{name} = {value}`" for name, value in scene.settings.items())
        fires += f"\n\nSettings: {changed}: {scene.why_settings}."
    doubles = (_CLUSTER if scene.pods else "") + (_HUBBLE if scene.hubble else "")
    doubles += _BASELINE.format(name=name, baseline=scene.baseline) if scene.baseline else ""
    proxy = "" if scene.together else ", Envoy"
    found = f"*{scene.finding}*, among other things" if scene.finding else "nothing happened around it"
    if not scene.baseline:
        fires += f"\n\nOf the slowest inference request the finding: {found}."
    return f"""# {name}

{inspect.cleandoc(scene.play.__doc__ or "")}

Recorded by `python -m demo.incidents {name}` from the model server's double (`demo/engine`) on one machine: clients{proxy},
server, sockets and packets are real; the GPU is simulated, and its rows say so.{doubles}

What must come out (`tests/correlator/test_incidents.py`):

{fires}

`expected/firings.csv` has every rule that fires, `expected/` the golden rows of the views that the manifest names
(`make golden` writes them anew), `docs/rules.md` the table of all rules and incidents.
"""


def main(names: Sequence[str], folder: Path, play: bool) -> None:
    """Record scenes, or with `play` off only describe them anew."""
    for name in names or SCENES:
        if play:
            found = record(name, folder)
            size = sum(path.stat().st_size for path in (folder / name).glob("*.parquet"))
            print(f"{name}: {sum(found.rows.values()):,} rows, {size / 1e6:.2f} MB", flush=True)
        describe(name, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*SCENES, []], metavar="NAME")
    parser.add_argument("--into", type=Path, default=SAMPLES)
    parser.add_argument("--describe", action="store_true", help="only write what is said of those recorded")
    args = parser.parse_args()
    main(args.names, args.into, not args.describe)

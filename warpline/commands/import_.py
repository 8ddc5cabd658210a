"""`warpline import`: read recordings (Kineto, Nsight Systems, Triton) into the correlator and say what was found."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from warpline import importer
from warpline.errors import SettingsError, SourceError
from warpline.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="[FORMAT] FILE",
        help="recordings; FORMAT first names their reader, else it is found",
    )
    parser.add_argument("--endpoint", help="OTLP/HTTP address of the correlator (collector_endpoint)")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Import each file; return 1 where one could not be, after the others were."""
    if args.endpoint:
        settings = dataclasses.replace(settings, collector_endpoint=args.endpoint)
    asked, files = _asked(args.files)
    talk = Console(stderr=True)
    failed = 0
    for path in files:
        try:
            found = _import(path, settings, asked, talk)
        except SourceError as error:
            talk.print(f"warpline: {error}", markup=False, highlight=False, soft_wrap=True)
            failed += 1
        else:
            print("\n".join(report(found)))
    return 1 if failed else 0


def _asked(words: list[str]) -> tuple[str | None, list[Path]]:
    if words[0] in importer.formats():
        if len(words) == 1:
            raise SettingsError(f"import: {words[0]!r} is a format, and no file follows; give one or more files")
        return words[0], [Path(word) for word in words[1:]]
    return None, [Path(word) for word in words]


def _import(path: Path, settings: Settings, asked: str | None, talk: Console) -> importer.Imported:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=talk, transient=True) as bar:
        task = bar.add_task(path.name, total=1.0)
        return importer.run(path, settings, asked, lambda share: bar.update(task, completed=share))


def report(found: importer.Imported) -> list[str]:
    """Return the lines that tell a person what is in a recording."""
    summary = found.summary
    rows, kernels = summary["rows"], _time(summary["kernel_ns"])
    lines = [
        f"{found.path.name}: {found.format} recording {found.recording_uid}, {_time(summary['span_ns'])} long, "
        f"read in {found.seconds:.1f} s",
        f"  clock: {found.clock}",
    ]
    if rows.get("engine_phase"):
        lines.append(f"  {rows['engine_phase']:,} phases of requests")
    else:
        lines.append(
            f"  {rows.get('gpu_kernel', 0):,} GPU executions ({kernels}), {rows.get('launch', 0):,} launches, "
            f"{rows.get('engine_step', 0):,} steps, {rows.get('annotation', 0):,} annotations"
        )
    for key, gpu in summary["gpus"].items():
        lines.append(f"  {key}: {_gpu(gpu)}")
    lines += [
        f"  {_time(each['total_ns']):>10}  {each['count']:>7,} x  {_short(each['name'])}" for each in summary["top"]
    ]
    lines += _counts("not understood", summary["not_understood"])
    lines += _counts("not kept", summary["not_kept"])
    lines += _counts("removed, never stored", summary["removed"])
    return lines + [f"  note: {each}" for each in summary["notes"]]


def _gpu(gpu: dict[str, Any]) -> str:
    ratio = gpu["busy_ns"] / gpu["span_ns"] if gpu["span_ns"] else 0.0
    text = f"busy {_time(gpu['busy_ns'])} of {_time(gpu['span_ns'])} ({ratio:.1%})"
    if gpu["communication_ns"]:
        share = gpu["overlapped_ns"] / gpu["communication_ns"]
        text += f", communication {_time(gpu['communication_ns'])}, {share:.1%} of it under compute"
    return text


def _counts(title: str, counts: dict[str, int]) -> list[str]:
    return [f"  {title}: " + ", ".join(f"{count:,} {reason}" for reason, count in counts.items())] if counts else []


def _time(ns: int) -> str:
    for unit, size in (("s", 1_000_000_000), ("ms", 1_000_000), ("µs", 1_000)):
        if ns >= size:
            return f"{ns / size:.3f} {unit}"
    return f"{ns} ns"


def _short(name: str, width: int = 90) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"

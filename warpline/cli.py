"""The `warpline` command: a table of subcommands, each imported when it is run.

Exit codes: 0 done, 1 failed, 2 misused, 3 bug (with a report to paste), 130 interrupted. stdout is data, stderr is talk.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
import traceback
from pathlib import Path

from warpline import __version__, log, no_pandas, settings
from warpline.errors import WarplineError

COMMANDS = {
    "collect": "run this node's sources and send what they see",
    "correlate": "receive, store, join and serve",
    "dashboard": "show it",
    "inject": "lay out what engines' processes load, for their pods to mount",
    "check": "say which sources can run here, and why the others cannot",
    "import": "read recordings (Kineto, Nsight Systems, …) into the correlator",
    "replay": "send a sample trace or an incident bundle through the OTLP door",
    "query": "print a view",
    "alerts": "list the alert rules, or say when they would have fired on recorded incidents",
    "incident": "record a window as one portable file, verify one, open one",
    "export": "write a recording, a request or a window as a trace that Perfetto and speedscope open",
    "explain": "say where one request's time went, and why",
    "schema": "print the reference of all tables",
    "settings": "print every setting with its default",
    "demo": "run a model server, a load and all of Warpline on this machine",
}
"""Subcommand → what it does. The module is `warpline.commands.<name>`, with an underscore where Python reserves the word."""


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code; without `argv`, the one that this process was started for."""
    if argv is None:
        no_pandas.keep_out()
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = next((a for a in arguments if a in COMMANDS), None)
    parser = _parser(name)
    try:
        args = parser.parse_args(arguments)
        if name is None:
            parser.print_help(sys.stderr)
            return 2
        found = settings.load(args.settings)
        log.start(found.log_level)
        return int(_module(name).run(args, found))
    except WarplineError as error:
        print(f"warpline: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # Whoever read our output has left, as `head` does: nothing more to say.
        return 0
    except Exception:
        print(_report(arguments), file=sys.stderr)
        return 3


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="warpline", description="Follow one LLM request from socket to GPU kernel.")
    parser.add_argument("--version", action="version", version=f"warpline {__version__}")
    parser.add_argument("--settings", type=Path, help="a warpline.toml")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text)
        if name == chosen:
            _module(name).arguments(sub)
    return parser


def _module(name: str):  # type: ignore[no-untyped-def]  # a module: its names are those of warpline.commands
    return importlib.import_module(f"warpline.commands.{name if name != 'import' else 'import_'}")


def _report(arguments: list[str]) -> str:
    return (
        "warpline: this is a bug in Warpline; please report it with what follows\n"
        f"warpline {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"arguments: {arguments}\n{traceback.format_exc()}"
    )


if __name__ == "__main__":
    sys.exit(main())

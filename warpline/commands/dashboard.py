"""`warpline dashboard`: the pages, served by Streamlit until stopped."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import socket
import sys
from dataclasses import fields
from pathlib import Path

from warpline.errors import SettingsError, plain
from warpline.settings import PREFIX, Settings

AUTH = ("", "oidc", "header")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags: all is in the settings."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Become `streamlit run`, so that signals and the exit code are Streamlit's own; never returns.

    Raises SettingsError where an address or the way of logging in is not one, where another listens at the address, and
    where the dashboard's packages are missing.
    """
    command = [sys.executable, "-m", "streamlit", "run", str(_script()), *flags(settings)]
    _check_free(settings.dashboard_address)
    os.execve(sys.executable, command, {**os.environ, **environment(settings)})


def flags(settings: Settings) -> list[str]:
    """Return Streamlit's own flags: our address, and nothing that asks any other host for anything. Raises SettingsError."""
    host, _, port = settings.dashboard_address.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"dashboard_address is {settings.dashboard_address!r}; give host:port")
    if settings.dashboard_auth not in AUTH:
        raise SettingsError(f"dashboard_auth is {settings.dashboard_auth!r}; give oidc, header, or nothing")
    if settings.dashboard_auth == "oidc" and not settings.dashboard_secrets_file:
        raise SettingsError(
            "dashboard_auth is oidc, dashboard_secrets_file is empty; name the file with the [auth] section"
        )
    chosen = {
        "server.address": host.strip("[]"),
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "client.showErrorLinks": "false",
        "theme.light.primaryColor": "#0067a3",
        "theme.dark.primaryColor": "#4aa8e0",
        "runner.magicEnabled": "false",
        "theme.baseRadius": "medium",
    }
    if settings.dashboard_secrets_file:
        chosen["secrets.files"] = settings.dashboard_secrets_file
    if settings.dashboard_auth == "header":
        chosen["server.trustedUserHeaders"] = json.dumps({settings.dashboard_user_header: "email"})
    return [f"--{name}={value}" for name, value in chosen.items()]


def _check_free(address: str) -> None:
    """Raise SettingsError where nobody can listen at an address now: Streamlit would not say which setting it is of."""
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(place)
            tried.listen()
    except (OSError, ValueError) as error:  # ValueError is of a name that is none, or a port that is no number.
        raise SettingsError(
            f"dashboard_address is {address!r}: {plain(error)}; end what listens there, or give another address"
        ) from None


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables that hand every setting that is not its default to the pages."""
    changed = {each.name: getattr(settings, each.name) for each in fields(settings)}
    return {
        f"{PREFIX}{name.upper()}": str(value) for name, value in changed.items() if value != getattr(Settings, name)
    }


def _script() -> Path:
    found = importlib.util.find_spec("dashboards")
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("streamlit") is None:
        raise SettingsError("dashboard: its packages are not installed here; install warpline[dashboard]")
    return Path(found.submodule_search_locations[0]) / "app.py"

"""Writes what an image holds as a CycloneDX 1.5 document: run inside the image, with the image's own Python.

Debian's packages are told by dpkg, Python's by their metadata. No time and no random number is in it, so that the same
image gives the same document (https://cyclonedx.org/docs/1.5/json/).
"""

import json
import subprocess
import sys
from importlib import metadata
from urllib.parse import quote


def component(kind: str, name: str, version: str) -> dict[str, str]:
    """Return one package, named by its package URL (purl): pkg:deb/debian/… or pkg:pypi/…."""
    purl = f"pkg:{kind}/{quote(name)}@{quote(version, safe='')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def debian() -> list[dict[str, str]]:
    """Return the packages that dpkg has installed."""
    command = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [component("deb/debian", *line.split()[1:]) for line in lines if line.startswith("installed ")]


def python() -> list[dict[str, str]]:
    """Return the distributions of the environment that runs this."""
    found = {each.metadata["Name"].lower().replace("_", "-"): each.version for each in metadata.distributions()}
    return [component("pypi", name, version) for name, version in sorted(found.items())]


def document() -> dict[str, object]:
    """Return the whole document."""
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": debian() + python()}


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)

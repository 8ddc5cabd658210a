#!/usr/bin/env bash
# Installs what Warpline needs on Debian 12: apt packages that are missing, a virtual environment from the lock file with
# Debian's bcc made visible in it, and the package itself with its C parts. Does nothing when nothing has changed.
set -euo pipefail
SUDO=${SUDO-} PYTHON=${PYTHON:-python3} VENV=${VENV:-.venv}

packages=$(grep -vE '^(#|$)' apt.txt)
missing=()
for package in $packages; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing Debian packages: ${missing[*]}"
    $SUDO apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive $SUDO apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null
    # Debian starts these servers when it installs them; Warpline's tests start their own.
    for service in prometheus prometheus-alertmanager containerd; do
        $SUDO systemctl disable --now "$service" >/dev/null 2>&1 || true
    done
fi

stamp=$(cat requirements.lock requirements-helm.lock requirements-hta.lock requirements-cuda.lock pyproject.toml setup.py $(find warpline collectors correlator demo -name '*.c' -o -name '*.h') setup.sh | sha256sum)
if [ "$(cat "$VENV/.stamp" 2>/dev/null)" != "$stamp" ]; then
    echo "setting up $VENV"
    [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
    "$VENV/bin/pip" install -q --disable-pip-version-check --require-hashes -r requirements.lock
    # Helm's engine declares a newer Python than Debian 12 has, and runs on it all the same: only the tests need it.
    "$VENV/bin/pip" install -q --disable-pip-version-check --no-deps --ignore-requires-python --require-hashes \
        -r requirements-helm.lock
    # HolisticTraceAnalysis asks for a notebook server; the part that the tests compare with needs nothing that is not here.
    "$VENV/bin/pip" install -q --disable-pip-version-check --no-deps --require-hashes -r requirements-hta.lock
    # Of NVIDIA's wheels only the headers: the tests compile the library's declarations against both generations of them.
    wheels=$(mktemp -d)
    if "$VENV/bin/pip" download -q --disable-pip-version-check --no-deps --require-hashes -d "$wheels" \
        -r requirements-cuda.lock; then
        "$VENV/bin/python" - "$wheels" "$VENV/cuda-headers" <<'END'
import sys, zipfile
from pathlib import Path

for wheel in Path(sys.argv[1]).glob("*.whl"):
    generation = "12" if "_cu12-" in wheel.name else "13"
    with zipfile.ZipFile(wheel) as packed:
        for name in packed.namelist():
            if name.endswith(".h") and "/include/" in name:
                file = Path(sys.argv[2]) / generation / name.partition("/include/")[2]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(packed.read(name))
END
    else
        echo "NVIDIA's headers were not to be had: the test that compiles against them skips"
    fi
    rm -r "$wheels"
    "$VENV/bin/pip" install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
    site=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    ln -sfn /usr/lib/python3/dist-packages/bcc "$site/bcc"
    echo "$stamp" > "$VENV/.stamp"
fi

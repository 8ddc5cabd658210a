#!/bin/sh
# Installs Warpline with one optional group into /opt/warpline: versions and hashes are the lock file's, the choice of packages is
# pip's own resolution of that group against it.
set -eu
group=$1
python3 -m venv /opt/warpline
/opt/warpline/bin/pip install --no-cache-dir --disable-pip-version-check setuptools wheel
# --require-hashes cannot be asked of a project in a folder: its dependencies are held to the locked versions as constraints,
# and fetched with the lock's hashes first.
sed -E 's/ *\\$//; /^ +--hash/d; /^ *#/d' requirements.lock > /tmp/constraints.txt
/opt/warpline/bin/pip install --no-cache-dir --disable-pip-version-check -c /tmp/constraints.txt ".[$group]"
rm /tmp/constraints.txt

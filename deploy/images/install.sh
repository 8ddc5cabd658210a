#!/bin/sh
# Installs Warpline with one optional group into /opt/warpline. The lock file constrains every version, of what builds too, and
# a package whose hash is not the lock's is refused.
set -eu
group=$1
python3 -m venv --without-pip /opt/warpline # uv, from beside it, needs no pip there, and the image none
awk '/^uv==/ {on = 1} on {print} on && !/\\$/ {exit}' requirements.lock > /tmp/uv.txt
python3 -m venv /tmp/uv
/tmp/uv/bin/pip install -q --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/uv.txt
PYC_INVALIDATION_MODE=UNCHECKED_HASH /tmp/uv/bin/uv pip install -q --no-cache --python /opt/warpline/bin/python \
    --constraints requirements.lock --build-constraints requirements.lock --verify-hashes --compile-bytecode ".[$group]"
rm -r /tmp/uv /tmp/uv.txt
for told in /opt/warpline/lib/python3*/site-packages/warpline-*.dist-info; do # uv notes the time of the build there
    rm -f "$told/uv_cache.json"
    sed -i '/uv_cache.json/d' "$told/RECORD"
done

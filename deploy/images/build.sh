#!/bin/sh
# Builds the three images with buildah, as localhost/warpline-PROCESS:VERSION. BASE is the image to build on; without it, Debian 12
# is put together from Debian's own packages by mmdebstrap, so that no image registry is needed. Give targets to build fewer.
set -eu
BUILDAH=${BUILDAH:-buildah} VERSION=${VERSION:-0.1.0} BASE=${BASE-}
export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
cd "$(dirname "$0")/../.."
if [ -z "$BASE" ]; then
    BASE=localhost/debian:12
    if ! $BUILDAH inspect --type image "$BASE" >/dev/null 2>&1; then
        tar=$(mktemp --suffix .tar)
        trap 'rm -f "$tar"' EXIT
        # As debian:12-slim leaves out: manuals, documents and translations.
        SOURCE_DATE_EPOCH=0 mmdebstrap --quiet --variant=apt --dpkgopt=path-exclude='/usr/share/man/*' \
            --dpkgopt=path-exclude='/usr/share/doc/*' --dpkgopt=path-exclude='/usr/share/locale/*' bookworm "$tar"
        container=$($BUILDAH from scratch)
        $BUILDAH add -q "$container" "$tar" / >/dev/null
        $BUILDAH commit -q --timestamp 0 "$container" "$BASE" >/dev/null
        $BUILDAH rm "$container" >/dev/null
    fi
fi
set -- "${@:-}"
[ -n "$1" ] || set -- collector correlator dashboard
for target in "$@"; do
    echo "building warpline-$target:$VERSION"
    if [ -n "${SSL_CERT_FILE-}" ]; then # Lent to the build, and not part of the image.
        lent="--volume $SSL_CERT_FILE:/run/certificates.pem:ro --build-arg SSL_CERT_FILE=/run/certificates.pem
            --build-arg PIP_CERT=/run/certificates.pem"
    fi
    # shellcheck disable=SC2086
    $BUILDAH build -q --layers --timestamp 0 --build-arg "BASE=$BASE" ${lent-} --target "$target" \
        -t "localhost/warpline-$target:$VERSION" -f deploy/images/Dockerfile . >/dev/null
done

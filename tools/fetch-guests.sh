#!/bin/bash
# Fills the cache (NESTBOX_CACHE, default .cache/ in the repository) with everything that the guests are made of, then makes the images.
# --update forgets the recorded package versions and takes the archive's current ones.
set -euo pipefail
here=$(dirname "$0")/guest
. "$here/lib.sh"
for tool in apt-get apt-cache dpkg-deb readelf sha256sum; do
	command -v $tool >/dev/null || die "$tool is missing; this needs Debian's apt, dpkg and binutils"
done
step "guest packages" "$here/fetch.sh" "$@"
step "guest images" "$here/image.sh"

#!/bin/bash
# Downloads the Debian packages that the guest images are made of and unpacks them in the cache; nothing is installed.
# The cache is complete when packages.lock exists and all its files are there: then no network is needed.
# Works without root; without package lists on the machine it fetches its own into the cache.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

APT=(-q)
WANT=(busybox-static qemu-system-x86 qemu-system-data seabios)

cached()
{
	[ -s "$LOCK" ] || return 1
	local name file
	while read -r name file; do
		[ -s "$PACKAGES/$file" ] && [ -e "$UNPACKED/$name/.complete" ] || return 1
	done <"$LOCK"
}

# Uses the machine's package lists, or makes private ones when it has none that know a kernel.
find_lists()
{
	[ -n "$(apt-cache madison linux-image-cloud-amd64 2>/dev/null)" ] && return
	local apt=$NESTBOX_CACHE/apt
	mkdir -p "$apt/lists/partial" "$apt/archives/partial"
	APT+=(-o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt" -o Debug::NoLocking=1)
	say "no package lists on this machine: fetching them into the cache"
	apt-get "${APT[@]}" update
	[ -n "$(apt-cache "${APT[@]}" madison linux-image-cloud-amd64)" ] ||
		die "apt knows no package linux-image-cloud-amd64; add a Debian 12 main archive to its sources"
}

depends()
{
	apt-cache "${APT[@]}" depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$1" |
		sed -n 's/^ *|\?\(Pre\)\?Depends: \([a-z0-9][^ :]*\).*/\2/p' | sort -u
}

# get NAME...: downloads and unpacks what is missing.
get()
{
	local name file todo=()
	for name in "$@"; do
		[ -e "$UNPACKED/$name/.complete" ] || todo+=("$name")
	done
	[ ${#todo[@]} -gt 0 ] || return 0
	say "downloading: ${todo[*]}"
	(cd "$PACKAGES" && apt-get "${APT[@]}" download "${todo[@]}")
	for name in "${todo[@]}"; do
		# apt writes an epoch's colon as %3a; a package has one version here unless an old one lies around: the newest file counts.
		file=$(cd "$PACKAGES" && ls -t "$name"_*.deb | head -n 1)
		rm -rf "$UNPACKED/$name"
		mkdir -p "$UNPACKED/$name"
		dpkg-deb -x "$PACKAGES/$file" "$UNPACKED/$name"
		printf '%s %s\n' "$name" "$file" >>"$LOCK.new"
		touch "$UNPACKED/$name/.complete"
	done
}

# Prints "PACKAGE SONAME" for each library that an ELF file of the closure needs and no unpacked package has.
missing_libraries()
{
	"$NESTBOX_ROOT/tools/guest/closure.sh" --missing "$UNPACKED/qemu-system-x86/usr/bin/qemu-system-x86_64"
}

# The libraries of qemu-system-x86_64: the dependencies of every package that needs a library we lack, until none lacks.
get_libraries()
{
	local owners name packages round
	for round in 1 2 3 4 5 6 7 8; do
		owners=$(missing_libraries | cut -d' ' -f1 | sort -u)
		[ -n "$owners" ] || return 0
		packages=()
		for name in $owners; do
			packages+=($(depends "$name" | grep -E '^(lib|zlib)' || true))
		done
		get $(printf '%s\n' "${packages[@]}" | sort -u)
	done
	die "libraries of qemu-system-x86_64 that no dependency provides: $(missing_libraries | tr '\n' ';')"
}

main()
{
	local kernel
	if [ "${1-}" = --update ]; then
		rm -rf "$LOCK" "$UNPACKED"
	fi
	if cached; then
		say "all packages are in $NESTBOX_CACHE"
		return
	fi
	mkdir -p "$PACKAGES" "$UNPACKED"
	find_lists
	# An interrupted run left complete packages behind: keep their lines.
	[ -e "$LOCK.new" ] || find "$UNPACKED" -name .complete -delete
	touch "$LOCK.new"
	kernel=$(depends linux-image-cloud-amd64 | grep -m1 '^linux-image-')
	[ -n "$kernel" ] || die "linux-image-cloud-amd64 depends on no kernel package; run apt-get update"
	get "$kernel" "${WANT[@]}"
	get_libraries
	mv "$LOCK.new" "$LOCK"
	say "$(wc -l <"$LOCK") packages in $NESTBOX_CACHE"
}

main "$@"

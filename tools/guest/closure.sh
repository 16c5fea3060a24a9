#!/bin/bash
# closure.sh FILE: prints the unpacked libraries that FILE needs, and theirs ("SONAME PATH").
# closure.sh --missing FILE: prints "PACKAGE SONAME" for those that no unpacked package has.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

mode=list
if [ "$1" = --missing ]; then
	mode=missing
	shift
fi

declare -A seen=() path=()
for lib in "$UNPACKED"/*/{lib,usr/lib}/x86_64-linux-gnu/*.so* "$UNPACKED"/*/{lib64,usr/lib64}/*.so*; do
	[ -e "$lib" ] && path[${lib##*/}]=$lib
done

queue=("$1")
while [ ${#queue[@]} -gt 0 ]; do
	file=${queue[0]}
	queue=("${queue[@]:1}")
	owner=${file#"$UNPACKED"/}
	owner=${owner%%/*}
	for so in $(readelf -d "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
		[ -z "${seen[$so]-}" ] || continue
		if [ -z "${path[$so]-}" ]; then
			[ $mode = list ] || printf '%s %s\n' "$owner" "$so"
			continue
		fi
		seen[$so]=1
		[ $mode = missing ] || printf '%s %s\n' "$so" "${path[$so]}"
		queue+=("${path[$so]}")
	done
done

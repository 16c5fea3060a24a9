# Shared by the guest-image tools and ./demo. Source it; needs bash. Not here: anything about one image.

NESTBOX_ROOT=${NESTBOX_ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
NESTBOX_CACHE=${NESTBOX_CACHE:-$NESTBOX_ROOT/.cache}
PACKAGES=$NESTBOX_CACHE/packages      # *.deb as downloaded
UNPACKED=$NESTBOX_CACHE/unpacked      # one tree per package: unpacked/NAME
IMAGES=$NESTBOX_CACHE/images          # what a VM is given
LOGS=$NESTBOX_CACHE/logs
LOCK=$NESTBOX_CACHE/packages.lock     # "NAME FILE" lines: the exact packages that are in the cache

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 2; }

# step TEXT COMMAND...: runs the command with its output in a log; a line when it starts to take long, then every five
# seconds, and the last lines of the log when it fails.
step()
{
	local text=$1 log pid start=$SECONDS shown=2 rc=0
	shift
	mkdir -p "$LOGS"
	log=$(printf '%s' "$text" | tr -cs 'a-zA-Z0-9' '-')
	log=$LOGS/${log:0:60}.log
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		if [ $((SECONDS - start)) -ge $shown ]; then
			say "  … $text: $((SECONDS - start)) s"
			shown=$((SECONDS - start + 5))
		fi
		sleep 0.2
	done
	wait "$pid" || rc=$?
	if [ $rc -ne 0 ]; then
		say "  ✗ $text failed (status $rc); the end of $log:"
		tail -n 15 "$log" | sed 's/^/    /'
		return $rc
	fi
	say "  ✓ $text ($((SECONDS - start)) s)"
}

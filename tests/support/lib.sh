# shellcheck shell=bash
# What integration tests share: a folder of their own that is gone with all its processes, and results.
#
# usage, in a bash test:
#   . "$(dirname "$0")/../support/lib.sh"
#   fixture_begin                 # sets $base; everything goes below it
#   hypervisor start web "$base/web"; guest make "$base/web" web-01; ...
#   pass restore_keeps_later_checkpoints   # or: fail NAME WHY, skip NAME WHY
#   finish                        # prints "N passed, N failed" and exits 0 or 1
# fixture_end runs by itself however the test ends, save by SIGKILL; what that leaves
# behind, the next fixture_begin (or "reap --stale") removes.

support=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export LIBVIRT_AUTOSTART=0
passed=0
failed=0
base=''

hypervisor() { "$support/hypervisor" "$@"; }
guest() { "$support/guest" "$@"; }
reap() { "$support/reap" "$@"; }

# when_started PID: the field of /proc/PID/stat that tells a pid from its next owner.
when_started() {
	sed 's/.*) //' "/proc/$1/stat" | cut -d ' ' -f 20
}

# Makes $base and has everything in it ended and removed when the test ends. What is
# started from here on carries VMCKPT_FIXTURE, so that it can be found.
fixture_begin() {
	reap --stale
	base=$(mktemp -d "${VMCKPT_TMP:-/tmp}/vmckpt.XXXXXX")
	base=$(cd "$base" && pwd -P)
	chmod 711 "$base"
	# Whole or not there, since others look for folders whose owner is dead.
	echo "$$ $(when_started $$)" >"$base/owner.new"
	mv "$base/owner.new" "$base/owner"
	export VMCKPT_FIXTURE=$base
	trap fixture_end EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
}

# With VMCKPT_KEEP set the files stay, to be looked at; the processes never do.
fixture_end() {
	local status=$?
	trap - EXIT
	[ -n "$base" ] || return $status
	if [ -n "${VMCKPT_KEEP-}" ]; then
		reap "$base" || status=1
		rm -f "$base/owner"
		echo "kept: $base" >&2
	else
		reap --remove "$base" || status=1
	fi
	base=''
	exit $status
}

pass() {
	passed=$((passed + 1))
	echo "ok   $1"
}

fail() {
	failed=$((failed + 1))
	echo "FAIL $1: ${*:2}"
}

skip() {
	echo "skip $1: ${*:2}"
}

# check NAME COMMAND...: passes if the command succeeds, whatever it prints.
check() {
	local name=$1
	shift
	if "$@" >/dev/null; then pass "$name"; else fail "$name" "status $? of: $*"; fi
}

# equal NAME GOT WANTED
equal() {
	if [ "$2" = "$3" ]; then pass "$1"; else fail "$1" "got \"$2\", wanted \"$3\""; fi
}

# eventually SECONDS COMMAND...: until the command succeeds, or the time is up. It rests as long as it asked,
# since others want the cores too.
eventually() {
	local end=$((SECONDS + $1 + 1)) asked rest
	shift
	while asked=${EPOCHREALTIME/[.,]/} && ! "$@"; do
		[ $SECONDS -lt $end ] || return 1
		rest=$((${EPOCHREALTIME/[.,]/} - asked))
		[ $rest -gt 50000 ] || rest=50000
		[ $rest -lt 300000 ] || rest=300000
		printf -v rest 0.%06d $rest
		sleep "$rest"
	done
}

finish() {
	echo "$passed passed, $failed failed"
	[ "$failed" = 0 ] || exit 1
	exit 0
}

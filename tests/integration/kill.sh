# shellcheck shell=bash disable=SC2154,SC2034
# What kill and kill-long share: kill -9 of the agent at each of its fault points in turn.
# An agent that is built with CKPT_FAULTS ends itself with SIGKILL at the N-th point it reaches, if
# VMCKPT_KILL_AT says N. A series goes N = 1, 2, 3, …, or takes every $every-th of them from $offset
# on, until an operation is done before its point, or $most have been taken. A step has three: before its beginning is journalled, after
# that, and when it is done.

# shellcheck source=tests/integration/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

points=0
violations=0
serial=0 # series begun
every=${every:-1}
offset=${offset:-1}

wrong() {
	violations=$((violations + 1))
	series_violations=$((series_violations + 1))
	echo "     violation: $series at point $n: $*"
}

# again DIR METHOD TEXT: a call of an agent that has just come back; while it still finishes what
# the crash left, it says so, and that it is to be asked again.
again() {
	local end=$((SECONDS + 30))
	until call "$@"; do
		case $(got .reason) in
		AGENT_STARTING | OPERATION_RUNNING) [ $SECONDS -lt $end ] || return 1 ;;
		*) return 1 ;;
		esac
		sleep 0.05
	done
}

# look STATE: the oracle, and for a running guest that it goes on counting where it was.
look() {
	local line
	while IFS= read -r line; do wrong "$line"; done < <(oracle "$dir" "$vm" "$1" 2>&1)
}

# goes_on LAST: the guest counts on, and has lost nothing.
goes_on() {
	local tick
	tick=$(guest wait-tick "$dir" "$vm" --within 10 2>&1) || { wrong "the guest stands still"; return; }
	[ "$tick" -gt "$1" ] || wrong "the guest counts $tick after $1"
}

# same WHAT GOT WANTED
same() { [ "$2" = "$3" ] || wrong "$1: got \"$2\", wanted \"$3\""; }

checkpoints() { # how many
	call "$dir" ListCheckpoints "filter{vm_id:'$id' include_deleting:true} page_size:500" || true
	got '.checkpoints | length'
}

# follow: after a call that succeeded, what the agent still does by itself and may be killed in, too.
follow() { :; }

# series NAME METHOD: kills METHOD at each point. The functions before, request and after are the
# series' own: before makes what the request needs, request prints its text, after checks what
# came of it ($reply has the answer) and clears up. All with an agent that is well.
series() {
	series=$1
	local method=$2 request_id text status started=$EPOCHREALTIME series_violations=0 round=0 kills=0 all=''
	for ((n = ${FROM_POINT:-(offset + serial++) % every + 1}; ; n += every)); do
		round=$((round + 1))
		before
		agent kill "$dir" a
		agent start "$dir" a --env VMCKPT_KILL_AT=$n
		request_id=$(new_id)
		text="options{request_id:'$request_id'} $(request)"
		status=0
		call "$dir" "$method" "$text" || status=$?
		[ $status != 0 ] || follow || true
		if agent alive "$dir" a; then
			# Its point may come yet, in what "after" does.
			agent kill "$dir" a
			agent start "$dir" a
			[ $status = 0 ] || { wrong "refused: $reply"; break; }
			after
			# One that is begun behind its end: every series has five points.
			if [ $kills = 0 ] && [ $n -gt 5 ]; then
				n=$((n % 5 + 1 - every))
				continue
			fi
			all=" of $((n - 1))"
			break
		fi
		points=$((points + 1))
		kills=$((kills + 1))
		same "how the agent ended" "$(agent wait-exit "$dir" a)" 137
		agent start "$dir" a
		if ! again "$dir" "$method" "$text"; then
			wrong "repeated: $reply"
			[ -z "${VMCKPT_STOP_AT_FIRST-}" ] || { agent log "$dir" | tail -n 20; exit 1; }
		else
			after
		fi
		[ $series_violations -lt 5 ] || break
		[ $kills != "${most:-none}" ] || break
	done
	if [ $series_violations = 0 ]; then
		pass "kill_$series: $kills$all kill points, 0 violations, $(seconds_since "$started") s"
	else
		fail "kill_$series" "$series_violations violations"
	fi
}

# kill_summary: before finish.
kill_summary() { echo "$points kill points, $violations violations"; }

# guest_up: (re)starts the guest and waits until its agent answers.
guest_up() {
	guest start "$dir" "$vm"
	guest wait-line "$dir" "$vm" '^resume ' >/dev/null
	guest wait-agent "$dir" "$vm"
}

mark_all() { # TEXT
	# shellcheck disable=SC2016  # the guest's shell expands these
	guest exec "$dir" "$vm" sh -c 'for m in /mnt/?; do echo "$1" >"$m/mark"; done; sync' sh "$1"
}

marks_in_guest() { # what both disks say, from inside
	guest exec "$dir" "$vm" sh -c 'cat /mnt/?/mark'
}

marks_in_checkpoint() { # ID: what a guest that boots from it would find
	local target path format
	call "$dir" GetCheckpoint "checkpoint_id:'$1'" || { echo "$reply"; return; }
	local checkpoint
	checkpoint=$(got .checkpoint)
	for target in $(jq -r '.virtualDiskDrives[]' <<<"$checkpoint"); do
		read -r path format < <(sealed "$checkpoint" "$target")
		disk_file "$path" "$format" /mark
	done
}

marks_on_disks() { # the present state, from outside
	local target
	for target in vda vdb; do
		[ $target = vda ] || [ "$disks" = 2 ] || continue
		disk_file "$(top_of "$dir" "$vm" $target)" qcow2 /mark
	done
}

marks_wanted() { # TEXT: as the functions above would print it
	echo "$1"
	[ "$disks" = 1 ] || echo "$1"
}

# clear_all: deletes all checkpoints; a branch point when its other branches are gone.
clear_all() {
	local left=0 one ids
	while call "$dir" ListCheckpoints "filter{vm_id:'$id'} page_size:500"; do
		ids=$(got '[.checkpoints[].checkpointId] | reverse | .[]')
		[ -n "$ids" ] || return 0
		if [ "$left" = "$(wc -l <<<"$ids")" ]; then
			fail "${series}_cleared" "$(cat "$base/last-refusal")"
			return 0
		fi
		left=$(wc -l <<<"$ids")
		for one in $ids; do
			remove "$dir" "$one" >/dev/null 2>"$base/last-refusal" || true
		done
	done
}

# shellcheck shell=bash disable=SC2154,SC2034
# What groups about memory share: captures between two ticks, captures that are held in their midst, and guests
# that go on. The script has ask and whole, $dir, $vm and $id.

MEMORY="consistency:CONSISTENCY_MEMORY minimum_consistency:CONSISTENCY_MEMORY"

not() { ! "$@"; }

new_guest() { # NAME [OPTIONS]
	vm=$1
	guest make "$dir" "$@"
	id=$(vm_id "$dir" "$vm")
	guest start "$dir" "$vm"
	guest wait-line "$dir" "$vm" --within 180 '^resume ' >/dev/null
}

# capture: sets $point and the ticks just before and after it.
capture() {
	before=$(guest wait-tick "$dir" "$vm")
	point=$(create "$dir" "$id" "$MEMORY")
	after=$(guest wait-tick "$dir" "$vm")
}
file_of() { call "$dir" GetCheckpoint "checkpoint_id:'$1'" >/dev/null && got '.checkpoint.files[] | select(.kind == "FILE_KIND_MEMORY") | .path'; }
memory_files() { find "$dir/images" -name "$vm-*.memory" | wc -l; }

# went_back OFFSET: the first tick after OFFSET of the console that is not the one after its predecessor, which may lie
# before OFFSET. Whole lines only: they end with CR LF.
went_back() {
	guest console "$dir" "$vm" | LC_ALL=C awk -v from="$1" '
		{ end += length($0) + 1 }
		$1 == "tick" && NF == 2 && /\r$/ && !found {
			tick = $2 + 0
			if (end > from && last && tick != last + 1) { print tick; found = 1 }
			last = tick
		}'
}
has_gone_back() { [ -n "$(went_back "$1")" ]; }
booted_since() { guest console "$dir" "$vm" --from "$1" | grep -aq '^boot '; }

# goes_on NAME OFFSET: after OFFSET of the console the guest goes on from a tick between $before and $after, which
# were seen just before and just after the capture, and did not boot; its disk has what its memory says.
goes_on() {
	local next
	check "$1_goes_on" eventually 20 has_gone_back "$2"
	next=$(went_back "$2")
	check "$1_not_earlier" [ "$before" -lt "${next:-0}" ]
	check "$1_at_its_tick" [ "${next:-0}" -le $((after + 1)) ]
	check "$1_did_not_boot" not booted_since "$2"
	check "$1_has_no_error" not grep -aq '^error' <(guest console "$dir" "$vm" --from "$2")
}

downtime() { on "$dir" migrate-getmaxdowntime "$vm" | tr -d '\n'; }
state_is() { [ "$(on "$dir" domstate "$vm" | head -n 1)" = "$1" ]; }

# as_before NAME: the VM runs on as if nobody had asked.
as_before() {
	check "$1_vm_runs" eventually 20 state_is running
	check "$1_counts_on" guest wait-tick "$dir" "$vm"
	equal "$1_no_file" "$(memory_files)" "${2:-0}"
	equal "$1_downtime_limit" "$(downtime)" 300
	whole "$1_oracle"
}

agent_stands() { grep -q '^State:[[:space:]]*T' "/proc/$(agent pid "$dir" "$(basename "$dir")")/status" 2>/dev/null; }
qemu_pid() { cat "$(records_of "$dir")/$vm.pid" 2>/dev/null; }

begin_create() { # sets $request; returns when it is being written
	request=$(new_id)
	local name
	name=$(basename "$dir")
	agent kill "$dir" "$name"
	agent start "$dir" "$name" --env "VMCKPT_PAUSE_AT=${1:-capturing}"
	"$support/agent" call "$dir" CreateCheckpoint "options{request_id:'$request'} vm_id:'$id' $MEMORY" >/dev/null 2>&1 &
	eventually 20 agent_stands
}
go_on() { kill -CONT "$(agent pid "$dir" "$(basename "$dir")")"; }
operation() { call "$dir" GetOperation "request_id:'$request'" >/dev/null && got "$1"; }
ended() { [[ $(operation .operation.state) =~ (SUCCEEDED|FAILED|CANCELLED)$ ]]; }

# --- in its midst ---

# libvirt writes memory into a file through a process of its own, which has it from QEMU by a pipe. On a gated host
# that one passes the first 4 MiB and then, if the gate is shut, waits there: whatever comes while it does comes in the
# midst of a capture (or of virsh's save), be the machine fast or slow. With the last gate shut it waits when all is
# written: QEMU has given up its files then, and libvirt has not ended the VM.

# gated_host NAME [AGENT-OPTIONS...]: as "host", once in a script.
gated_host() {
	gate=$base/gate
	gated=$(find /usr/lib /usr/libexec -name libvirt_iohelper -print -quit 2>/dev/null)
	mkdir -m 777 "$gate"
	cp "$gated" "$gate/helper"
	cat >"$gate/keeper" <<-END
		#!/bin/bash
		# FILE DESCRIPTOR, from stdin
		if [ -p $gate/shut ]; then
			head -c 4194304 >&"\$2"
			echo "\$\$" >$gate/waits
			read -r _ <$gate/shut
		fi
		if [ -p $gate/last ]; then
			$gate/helper "\$@"
			result=\$?
			echo "\$\$" >$gate/waits
			read -r _ <$gate/last
			exit \$result
		fi
		exec $gate/helper "\$@"
	END
	chmod 755 "$gate/keeper"
	start_gated "$1" "$base/$1"
	agent start "$base/$1" "$@"
}

# start_gated NAME DIR: its libvirtd, to which the gate's keeper is libvirt's helper.
start_gated() {
	# shellcheck disable=SC2016  # the inner shell expands these
	unshare --mount sh -ec 'mount --bind "$1" "$2"; shift 2; exec "$@"' sh "$gate/keeper" "$gated" \
		"$support/hypervisor" start "$@" >/dev/null
}

shut_gate() { # [last]
	rm -f "$gate/waits"
	mkfifo -m 666 "$gate/${1:-shut}"
}
at_the_gate() { eventually 30 test -s "$gate/waits"; }
open_gate() { # [last]
	at_the_gate && timeout 20 sh -c 'echo >"$1"' sh "$gate/${1:-shut}"
	rm "$gate/${1:-shut}"
}
# past_the_gate: all of it is written, and the process that wrote it is gone.
past_the_gate() { ! grep -q '^State:[[:space:]]*[^Z]' "/proc/$(cat "$gate/waits")/status" 2>/dev/null; }
is_being_cancelled() {
	[ "$(on "$dir" qemu-monitor-command "$vm" '{"execute":"query-migrate"}' | jq -r .return.status)" = cancelling ]
}

ask_held() {
	call "$dir" CreateCheckpoint "options{request_id:'$request' return_when:RETURN_WHEN_ACCEPTED} vm_id:'$id' $MEMORY" >/dev/null
}

# hold_create: sets $request; returns in the midst of its capture, with the gate shut.
hold_create() {
	request=$(new_id)
	shut_gate
	ask_held
	at_the_gate
}

# shellcheck shell=bash disable=SC2154,SC2034  # variables of "hazards"
# libvirtd and QEMU die between a pivot and libvirt's saving of the definition
# shellcheck source=tests/integration/merges.sh
. "$integration/merges.sh"

# kill_at OFFSET-MS PID...: when the agent has marked the base for the suspension around the pivot, and so
# long after; prints whether it was still marked then.
kill_at() {
	python3 - "$dir/images/$vm-vda.qcow2.vmckpt-paused" "$@" <<-'END'
		import os, signal, sys, time
		mark, offset, pids = sys.argv[1], float(sys.argv[2]) / 1000, [int(pid) for pid in sys.argv[3:]]
		print("ready", flush=True)
		until = time.monotonic() + 30
		while not os.path.exists(mark):
		    if time.monotonic() > until:
		        sys.exit("never suspended")
		begun = time.monotonic()
		while time.monotonic() < begun + offset:
		    pass
		for pid in pids:
		    os.kill(pid, signal.SIGKILL)
		print("suspended" if os.path.exists(mark) else "going on")
	END
}

# One kill. With "at once" the owner starts the VM before the agent is back at work.
pivot_killed() { # OFFSET-MS "at once"|later
	local one tick request from boot back when killer
	guest mark "$dir" "$vm" "newest $1" >/dev/null
	one=$(create "$dir" "$id")
	guest mark "$dir" "$vm" "newer-$1"
	: >"$base/when"
	kill_at "$1" "$(<"$dir/libvirtd.pid")" "$(qemu_pid)" >"$base/when" &
	killer=$!
	eventually 10 grep -q ready "$base/when"
	begin_delete "$one"
	wait "$killer" || { wrong "$1 ms: it was never suspended"; return; }
	when=$(tail -n 1 "$base/when")
	tick=$(last_tick "$dir" "$vm")
	hypervisor kill a "$dir" >/dev/null 2>&1 || true
	hypervisor start a "$dir" >/dev/null
	[ "$2" != later ] || eventually 40 gone "$one" || wrong "$1 ms: the delete is not finished"
	from=$(guest console-size "$dir" "$vm")
	guest start "$dir" "$vm" 2>/dev/null || eventually 20 guest start "$dir" "$vm" || wrong "$1 ms: it does not start"
	boot=$(guest wait-line "$dir" "$vm" --from "$from" '^boot ') || wrong "$1 ms: no boot"
	# What the guest said to have synced is there.
	back=$(guest wait-line "$dir" "$vm" --from "$from" '^resume ') || wrong "$1 ms: no resume"
	[ "${back#resume }" -ge "$tick" ] || wrong "$1 ms, $when: it is back at $back, tick $tick was synced"
	grep -q "vda=newer-$1" <<<"$boot" || wrong "$1 ms, $when: it booted to ${boot:0:60}"
	eventually 40 gone "$one" || wrong "$1 ms: the delete is not finished"
	guest wait-agent "$dir" "$vm"
	oracle "$dir" "$vm" >"$base/oracle.out" || wrong "$1 ms: $(head -n 2 "$base/oracle.out")"
	echo "     killed $1 ms after the mark ($when), started $2: tick $tick, ${boot:0:40}, $back"
}
wrong() {
	echo "     WRONG: $*"
	bad=$((bad + 1))
}

# How long a guest stands still for a pivot: QEMU's STOP to RESUME.
suspension() {
	local one events=$base/events log
	log=$events.$vm
	on "$dir" qemu-monitor-event "$vm" --loop --timestamp --timeout 30 >"$log" 2>/dev/null &
	local watcher=$!
	one=$(create "$dir" "$id")
	guest mark "$dir" "$vm" measured
	remove "$dir" "$one" >/dev/null
	kill "$watcher" 2>/dev/null
	wait "$watcher" 2>/dev/null || true
	python3 - "$log" <<-'END'
		import re, sys
		at = {}
		for line in open(sys.argv[1]):
		    found = re.search(r"(\d+):(\d+):(\d+)\.(\d+).*event (STOP|RESUME)", line)
		    if found:
		        h, m, s, f, name = found.groups()
		        at.setdefault(name, (int(h) * 60 + int(m)) * 60 + int(s) + float("0." + f))
		print(round((at["RESUME"] - at["STOP"]) * 1000) if len(at) == 2 else -1)
	END
}

# Folders that libvirtd may not write to: where it is root, those that nobody can change.
close_folder() { if [ -d "$dir/system" ]; then chattr +i "$1"; else chmod 555 "$1"; fi; }
open_folder() { if [ -d "$dir/system" ]; then chattr -i "$1"; else chmod 755 "$1"; fi; }

# libvirt saves nothing there.
unsaved() {
	local config one overlay from
	config=$(definitions_of "$dir")
	guest mark "$dir" "$vm" before
	one=$(create "$dir" "$id")
	guest mark "$dir" "$vm" unsaved
	overlay=$(top_of "$dir" "$vm" vda)
	close_folder "$config"
	refused A26_unsaved_is_not_pivoted HYPERVISOR_FAILED "cannot save the definition" ask DeleteCheckpoint "checkpoint_id:'$one'"
	check A26_the_guest_goes_on_unsaved guest wait-tick "$dir" "$vm"
	equal A26_unsaved_it_runs_on_the_overlay "$(on "$dir" domblklist "$vm" | awk '$1 == "vda" {print $2}')" "$overlay"
	open_folder "$config"
	check A26_saved_it_is_deleted remove "$dir" "$one"
	whole A26_oracle_when_saved

	# From the pivot on: the overlay cannot be booted from, and the caller is told.
	one=$(create "$dir" "$id")
	guest mark "$dir" "$vm" later
	overlay=$(top_of "$dir" "$vm" vda)
	stop_at pivoting DeleteCheckpoint "options{request_id:'$(new_id)'} checkpoint_id:'$one'"
	close_folder "$config"
	kill -CONT "$(agent pid "$dir" a)"
	wait "$caller" || true
	reply=$(cat "$base/reply")
	open_folder "$config"
	check A26_unsaved_pivot_is_told grep -qF "make room" <<<"$reply"
	check A26_the_guest_goes_on_pivoted guest wait-tick "$dir" "$vm"
	check A26_saved_definition_names_the_overlay grep -qF "$overlay" "$config/$vm.xml"
	check A26_it_cannot_be_booted_from [ ! -r "$overlay" -o ! -e "$overlay" ]
	on "$dir" dumpxml --inactive "$vm" >"$dir/a26.xml"
	on "$dir" define "$dir/a26.xml" >/dev/null
	whole A26_oracle_after_what_the_message_says
	guest stop "$dir" "$vm"
	from=$(guest console-size "$dir" "$vm")
	guest start "$dir" "$vm"
	check A26_boots_the_newest guest wait-line "$dir" "$vm" --from "$from" '^boot [0-9]+ vda=later '
	guest wait-agent "$dir" "$vm"
}

# warnings CHECKPOINT: of its delete, once more
warnings() { call "$dir" DeleteCheckpoint "options{request_id:'$request'} checkpoint_id:'$1'" >/dev/null && got '.warnings // [] | join(" ")'; }

# Who made the pivot does not see whether it was saved: it dies, or libvirtd does.
unseen() {
	local config one overlay request
	config=$(definitions_of "$dir")
	one=$(create "$dir" "$id")
	guest mark "$dir" "$vm" unseen
	overlay=$(top_of "$dir" "$vm" vda)
	agent kill "$dir" a
	agent start "$dir" a --env VMCKPT_PAUSE_AT=pivoting --env VMCKPT_KILL_AT=pivoted
	begin_delete "$one"
	check A26_unseen_stands_before_its_pivot eventually 30 agent_is T
	close_folder "$config"
	kill -CONT "$(agent pid "$dir" a)"
	check A26_unseen_agent_dies_behind_it eventually 10 eval '! agent alive "$dir" a'
	check A26_unseen_definition_names_the_overlay grep -qF "$overlay" "$config/$vm.xml"
	agent start "$dir" a
	check A26_unseen_is_finished eventually 40 gone "$one"
	check A26_unseen_ends eventually 20 ended
	check A26_unseen_is_told grep -qF "make room" <<<"$(warnings "$one")"
	check A26_unseen_guest_goes_on guest wait-tick "$dir" "$vm"
	open_folder "$config"
	on "$dir" dumpxml --inactive "$vm" >"$dir/a26.xml"
	on "$dir" define "$dir/a26.xml" >/dev/null
	whole A26_unseen_oracle

	one=$(create "$dir" "$id")
	guest mark "$dir" "$vm" saved
	agent kill "$dir" a
	agent start "$dir" a --env VMCKPT_PAUSE_AT=pivoted
	begin_delete "$one"
	check A26_saved_stands_behind_its_pivot eventually 30 agent_is T
	hypervisor kill a "$dir"
	kill -CONT "$(agent pid "$dir" a)"
	sleep 0.5 # it has met the dead connection
	hypervisor start a "$dir" >/dev/null
	check A26_saved_is_finished eventually 40 gone "$one"
	check A26_saved_ends eventually 20 ended
	equal A26_saved_warns_of_nothing "$(warnings "$one")" ""
	check A26_saved_guest_goes_on guest wait-tick "$dir" "$vm"
	whole A26_saved_oracle
}

# A file that was merged and could not be taken out of the definition is never merged again: the guest has
# written below it since. (Here in a VM that is off, and by hand.)
merged_once() {
	local dir=$base/e one top below
	host e --limit merge_mib_per_second=4
	make_guest a26-02
	one=$(create "$dir" "$id")
	top=$(top_of "$dir" "$vm" vda)
	below=$(qemu-img info --output=json "$top" | jq -r '."full-backing-filename"')
	hypervisor run "$dir" qemu-io -f qcow2 -c 'write -q -P 0x33 8M 8M' "$top"
	begin_delete "$one"
	check A26_agent_killed_in_the_midst merging 1
	agent kill "$dir" e
	chmod 0 "$top"
	check A26_newer_below eventually 10 hypervisor run "$dir" qemu-io -f qcow2 -c 'write -q -P 0x44 8M 8M' "$below"
	agent start "$dir" e
	check A26_merged_once_the_delete_ends eventually 30 gone "$one"
	check A26_merged_once_the_newer_stays holds_newer "$below"
	equal A26_merged_once_defined "$(top_of "$dir" "$vm" vda)" "$below"
	whole A26_merged_once_oracle "shut off"
}
holds_newer() { hypervisor run "$dir" qemu-io -r -f qcow2 -c 'read -q -P 0x44 8M 8M' "$1"; }

A26() {
	# shellcheck source=tests/integration/blank.sh
	. "$integration/blank.sh"
	local bad=0 ms
	merged_once
	make_guest a26-01
	up
	ms=$(suspension)
	echo "     the guest stood still for $ms ms"
	check A26_suspended_at_all [ "$ms" -ge 0 ]
	check A26_suspended_no_longer_than_needed [ "$ms" -lt 1000 ]
	for ms in ${A26_OFFSETS:-0 25}; do
		pivot_killed "$ms" "$([ $((ms % 2)) = 0 ] && echo later || echo "at once")"
	done
	unsaved
	unseen
	equal A26_boots_into_the_past_or_worse "$bad" 0
	check A26_the_guest_goes_on guest wait-tick "$dir" "$vm"
	A26_by_virsh
}

# kill_at_pivot FILE PID: when QEMU has given up the right to write to it (a lock on byte 101).
kill_at_pivot() {
	python3 - "$@" <<-'END'
		import fcntl, os, signal, struct, sys, time
		file, pid = open(sys.argv[1], "rb"), int(sys.argv[2])
		asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 101, 1, 0)
		print("ready", flush=True)
		until = time.monotonic() + 30
		while struct.unpack("hhqqi4x", fcntl.fcntl(file, 36, asked))[0] != fcntl.F_UNLCK:  # F_OFD_GETLK
		    if time.monotonic() > until:
		        sys.exit("no pivot")
		os.kill(pid, signal.SIGKILL)
	END
}

# The same with virsh, and nobody to mend it: libvirtd is killed at the pivot, which the guest does not notice, and
# QEMU a little later.
A26_by_virsh() {
	local over killer tries=0 config tick pid from back
	config=$(definitions_of "$dir")/$vm.xml
	agent stop "$dir" a
	pid=$(qemu_pid)
	while [ $tries -lt 3 ]; do
		tries=$((tries + 1))
		by_virsh "virsh-$tries" --no-metadata
		over=$(top_of "$dir" "$vm" vda)
		guest wait-tick "$dir" "$vm" >/dev/null
		: >"$base/when"
		kill_at_pivot "$over" "$(<"$dir/libvirtd.pid")" >"$base/when" &
		killer=$!
		eventually 10 grep -q ready "$base/when"
		on "$dir" blockcommit "$vm" vda --active --wait --pivot >/dev/null 2>&1 || true
		wait "$killer" || true
		! grep -qF "$over" "$config" || break
		hypervisor start a "$dir" >/dev/null
	done
	tick=$(last_tick "$dir" "$vm")
	tick=$(guest wait-tick "$dir" "$vm" $((tick + 4)))
	kill -9 "$pid"
	eventually 10 eval '! kill -0 "$pid" 2>/dev/null'
	hypervisor start a "$dir" >/dev/null
	from=$(guest console-size "$dir" "$vm")
	guest start "$dir" "$vm"
	back=$(guest wait-line "$dir" "$vm" --from "$from" '^resume ')
	beside "virsh blockcommit --pivot, libvirtd killed at the pivot (try $tries), QEMU four ticks later: the VM boots from $(basename "$(top_of "$dir" "$vm" vda)"); tick $tick was synced, it is back at ${back#resume }"
	agent start "$dir" a
}

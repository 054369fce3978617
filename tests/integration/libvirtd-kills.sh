# shellcheck shell=bash disable=SC2154,SC2034
# kill -9 of libvirtd in the middle of an agent's snapshot, to the millisecond, for kill-libvirtd and hazard A6.

# shellcheck source=tests/integration/blank.sh
. "$(dirname "${BASH_SOURCE[0]}")/blank.sh"

hits_a5=0 # QEMU writes to the overlay, libvirt names the base
hits_a6=0 # all of it is done, though the caller got an error
not_done=0
later=0   # libvirt had answered
opened=0  # QEMU has the overlay open, and was not told to switch to it
kills=0

# The point at which the snapshot is journalled as begun, and comes next.
snapshot_point() {
	call "$dir" CreateCheckpoint "options{request_id:'$(new_id)' validate_only:true} vm_id:'$id'"
	got '[.plan[].name] | index("snapshot") * 3 + 2'
}

# kill_libvirtd_in_snapshot POINT WHEN: WHEN is in ms after the agent goes on, or "saved": once the definition that
# names the overlay is (the agent has libvirt save it before the snapshot, too).
# Sets $overlay_open, $overlay_used, $overlay_defined, $overlay_live (0 or 1), $step; the create's request in $text.
# Used: QEMU has given up the right to write to the file below.
kill_libvirtd_in_snapshot() {
	local known below
	below=$(top_of "$dir" "$vm" vda)
	known=$(ls "$dir/images")
	text="options{request_id:'$(new_id)'} vm_id:'$id'"
	stop_at "$1" CreateCheckpoint "$text" || { wrong "the create ended before its snapshot: $reply"; return 1; }
	read -r overlay_open overlay_used overlay_defined overlay_live < <(python3 - "$(agent pid "$dir" a)" \
		"$(cat "$dir/libvirtd.pid")" "$(qemu_pid)" "$2" "$dir/images" "$(definitions_of "$dir")/$vm.xml" \
		"$(records_of "$dir")/$vm.xml" "$known" "$below" <<-'END'
			import fcntl, os, signal, struct, sys, time
			agent, libvirtd, qemu = map(int, sys.argv[1:4])
			when, images, defined, live = sys.argv[4:8]
			overlay = next(f for f in set(os.listdir(images)) - set(sys.argv[8].split()) if f.endswith(".qcow2"))
			def saved():
			    try:
			        with open(defined) as f:
			            return overlay in f.read()
			    except FileNotFoundError:
			        return False
			os.kill(agent, signal.SIGCONT)
			start = time.monotonic()
			if when == "saved":
			    while not saved() and time.monotonic() < start + 10:
			        pass
			else:
			    while time.monotonic() < start + float(when) / 1000:
			        pass
			os.kill(libvirtd, signal.SIGKILL)
			while os.path.exists(f"/proc/{libvirtd}/fd") and os.listdir(f"/proc/{libvirtd}/fd"):
			    time.sleep(0.001)
			def opened(fd):
			    try:
			        return os.readlink(f"/proc/{qemu}/fd/{fd}")
			    except OSError:
			        return ""
			def written(file):
			    with open(file, "rb") as f:
			        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 101, 1, 0)
			        return struct.unpack("hhqqi4x", fcntl.fcntl(f, 36, asked))[0] != fcntl.F_UNLCK  # F_OFD_GETLK
			time.sleep(0.05)  # QEMU may be at the command that it got last
			print(*[int(v) for v in (any(opened(fd).endswith("/" + overlay) for fd in os.listdir(f"/proc/{qemu}/fd")),
			    not written(sys.argv[9]), overlay in open(defined).read(), overlay in open(live).read())])
		END
	)
	call "$dir" GetOperation "request_id:'$(grep -oE "[0-9a-f-]{36}" <<<"$text" | head -n 1)'" || true
	step=$(got '.operation.stepDescription')
	kills=$((kills + 1))
	case $overlay_open$overlay_used$overlay_defined$overlay_live in
	0*) not_done=$((not_done + 1)) ;;
	10*) opened=$((opened + 1)) ;;
	1111) if [[ $step == *overlay* || $step == snapshot* ]]; then hits_a6=$((hits_a6 + 1)); else later=$((later + 1)); fi ;;
	*) hits_a5=$((hits_a5 + 1)) ;;
	esac
	hypervisor start a "$dir" >/dev/null
}

# All must be as if nothing had happened: the create is done once it is asked for again, what the guest writes from
# then on is what it boots from, and the checkpoint has what it wrote before.
after_libvirtds_kill() {
	local made believed first=$written
	# What was undone says so, once: "the VM is as before".
	finally CreateCheckpoint "$text" || { [ "$(got .reason)" = HYPERVISOR_FAILED ] && finally CreateCheckpoint "$text"; } ||
		{ wrong "repeated: $reply"; return; }
	made=$(got .checkpoint.checkpointId)
	same "the checkpoint" "$(captured "$made")" "$first"
	write_all $((first + 100))
	same "what it would boot from" "$(present)" "$written"
	believed=$(on "$dir" domblklist "$vm" | awk '$1 == "vda" {print $2}')
	if [ "$believed" != "$(top_of "$dir" "$vm" vda)" ]; then
		eventually 10 is_distrusted || wrong "libvirt believes in $believed, and nobody says so"
	fi
	# Libvirt learns what the VM runs on when that is started again, and not before.
	if [ "$overlay_used$overlay_live" = 10 ]; then
		on "$dir" destroy "$vm" >/dev/null
		run_again
		same "after a power cycle" "$(present)" "$written"
	fi
	eventually 10 is_trusted || wrong "quarantined: $(quarantine)"
	look running
	same "the checkpoint, later" "$(captured "$made")" "$first"
	remove "$dir" "$made" || wrong "it cannot be deleted: $reply"
}

# meet_a6 NAME MORE: passes once all was done though the caller got an error; kills at the likeliest moment, as often
# as MORE, until that has happened.
meet_a6() {
	local left=$2 when=saved
	while [ $hits_a6 = 0 ] && [ "$left" -gt 0 ]; do
		left=$((left - 1))
		n=$((n + 1))
		write_all $((n % 100 + 1))
		kill_libvirtd_in_snapshot "$point" saved && after_libvirtds_kill
	done
	if [ $hits_a6 -gt 0 ]; then
		pass "$1"
	else
		fail "$1" "none of $kills kills came when libvirt had saved the definition and not answered yet"
	fi
}

quarantine() { call "$dir" GetVirtualMachine "vm_id:'$id'" && got '.virtualMachine.quarantineReason'; }
is_distrusted() { [ -n "$(quarantine)" ]; }
is_trusted() { [ -z "$(quarantine)" ]; }

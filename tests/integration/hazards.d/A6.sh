# shellcheck shell=bash disable=SC2154,SC2034  # variables of "hazards"
# libvirtd killed in a snapshot: it is done, though the caller got an error

# opened_by_a_dead_libvirtd storage|format: sets $overlay, and what after_libvirtds_kill wants.
opened_by_a_dead_libvirtd() {
	local known node
	write_all $((n += 1))
	known=$(ls "$dir/images")
	text="options{request_id:'$(new_id)'} vm_id:'$id'"
	stop_at "$point" CreateCheckpoint "$text"
	overlay=$dir/images/$(comm -13 <(echo "$known") <(ls "$dir/images") | grep 'qcow2$')
	node=libvirt-$(($(xmllint --xpath 'string(//nodename/@index)' "$(readlink "$dir/run")/run/libvirt/qemu/run/$vm.xml") + 1))
	monitor '{"execute":"blockdev-add","arguments":{"driver":"file","node-name":"'"$node-storage"'","auto-read-only":true,
		"filename":"'"$overlay"'"}}' >/dev/null
	[ "$1" = storage ] ||
		monitor '{"execute":"blockdev-add","arguments":{"driver":"qcow2","node-name":"'"$node-format"'","backing":null,
			"file":"'"$node-storage"'"}}' >/dev/null
	hypervisor kill a "$dir"
	hypervisor start a "$dir" >/dev/null
	kill -CONT "$(agent pid "$dir" a)"
	wait "$caller" || true
	overlay_open=1 overlay_used=0 overlay_live=0
}

closed() { [ -z "$(find "/proc/$(qemu_pid)/fd" -lname "$1*")" ]; }

A6() {
	# shellcheck source=tests/integration/libvirtd-kills.sh
	. "$integration/libvirtd-kills.sh"
	local overlay when point violations=0 series=A6 series_violations=0 n
	wrong() {
		violations=$((violations + 1))
		echo "     violation: killed at $when: $*"
	}
	same() { [ "$2" = "$3" ] || wrong "$1: got \"$2\", wanted \"$3\""; }
	look() {
		local line
		while IFS= read -r line; do wrong "$line"; done < <(oracle "$dir" "$vm" "$1" 2>&1)
	}
	make_blank a6-01 1
	run_again
	point=$(snapshot_point)
	n=0
	# As soon as the definition is saved, which is the last that libvirtd does before it answers.
	for when in saved 12 16 saved; do
		n=$((n + 1))
		write_all $n
		kill_libvirtd_in_snapshot "$point" "$when" && after_libvirtds_kill
	done
	equal A6_an_error_is_not_not_done "$violations" 0
	echo "     $kills kills: $hits_a6 finished though the caller got an error, $not_done not begun, $opened opened, $hits_a5 as A5, $later answered"

	# libvirtd dies when QEMU has opened the overlay, the file alone or as an image too, and was not told yet to
	# switch to it: that is not done. libvirt will want the names of those nodes for its next snapshot.
	local kind
	for kind in storage format; do
		when="$kind is open"
		opened_by_a_dead_libvirtd $kind
		after_libvirtds_kill
		equal "A6_an_open_${kind}_is_not_yet_switched_to" "$violations" 0
		check "A6_and_QEMU_has_closed_the_$kind" closed "$overlay"
	done

	# The same with virsh alone: an error, and the overlay is in use.
	local status=0 pid
	pid=$(cat "$dir/libvirtd.pid")
	python3 - "$(readlink "$dir/run")/config/libvirt/qemu/$vm.xml" "$pid" "$dir/a6.ready" <<-'END' &
		import os, signal, sys, time
		before, end = os.stat(sys.argv[1]).st_ino, time.monotonic() + 10
		open(sys.argv[3], "w").close()
		while time.monotonic() < end:
		    try:
		        if os.stat(sys.argv[1]).st_ino != before:
		            break
		    except FileNotFoundError:
		        pass
		os.kill(int(sys.argv[2]), signal.SIGKILL)
	END
	eventually 10 test -e "$dir/a6.ready"
	on "$dir" snapshot-create-as "$vm" by-virsh --disk-only --no-metadata >/dev/null 2>&1 || status=$?
	wait $!
	hypervisor start a "$dir" >/dev/null
	beside "virsh snapshot-create-as, libvirtd killed when it had saved the definition: status $status, and the VM runs on $(basename "$(top_of "$dir" "$vm" vda)")"
	on "$dir" destroy "$vm" >/dev/null
}

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
	node=libvirt-$(($(xmllint --xpath 'string(//nodename/@index)' "$(records_of "$dir")/$vm.xml") + 1))
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
	meet_a6 A6_is_met 10
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

	A6_by_virsh
}

# The same with virsh alone: an error, and the overlay is in use.
A6_by_virsh() {
	local status=0 tries=0 over
	while [ $status = 0 ] && [ $tries -lt 5 ]; do
		tries=$((tries + 1))
		over=by-virsh-$tries
		rm -f "$dir/a6.ready"
		python3 - "$(definitions_of "$dir")/$vm.xml" "$over" "$(cat "$dir/libvirtd.pid")" "$dir/a6.ready" <<-'END' &
			import os, signal, sys, time
			end = time.monotonic() + 10
			open(sys.argv[4], "w").close()
			while time.monotonic() < end:
			    try:
			        with open(sys.argv[1]) as f:
			            if "." + sys.argv[2] in f.read():
			                break
			    except FileNotFoundError:
			        pass
			os.kill(int(sys.argv[3]), signal.SIGKILL)
		END
		eventually 10 test -e "$dir/a6.ready"
		by_virsh "$over" --no-metadata 2>/dev/null || status=$?
		wait $!
		hypervisor start a "$dir" >/dev/null
	done
	beside "virsh snapshot-create-as $over, libvirtd killed when it had saved the definition (try $tries): status $status, and the VM runs on $(basename "$(top_of "$dir" "$vm" vda)")"
	on "$dir" destroy "$vm" >/dev/null
}

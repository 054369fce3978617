# shellcheck shell=bash disable=SC2154,SC2317  # variables of "hazards"; functions called by name
# kill -9 of libvirtd in virsh's internal snapshot: the VM may stay paused, with a snapshot that nobody lists
a7_file() { echo "$dir/images/a7-01-vda.qcow2"; }
a7_inside() { qemu-img snapshot -U -l "$(a7_file)" | awk 'NR > 2 { print $2 }'; }
a7_is_listed() {
	call "$dir" ListCheckpoints "filter{vm_id:'$id'}" >/dev/null &&
		got '.checkpoints[] | .checkpointName + " " + .disabledReason' | grep -q "^$1 .*libvirt does not list"
}
a7_is_gone() { ! grep -q '^State:[[:space:]]*[^Z]' "/proc/$1/status" 2>/dev/null; }

# a7_kill_in SNAPSHOT: libvirtd, when QEMU has begun to write the memory into the disk's file.
a7_kill_in() {
	local libvirtd size end=$((SECONDS + 20))
	libvirtd=$(cat "$dir/libvirtd.pid")
	size=$(($(stat -c %s "$(a7_file)") + 4194304))
	on "$dir" snapshot-create-as "$vm" "$1" >/dev/null 2>&1 &
	until [ "$(stat -c %s "$(a7_file)")" -gt $size ] || [ $SECONDS -ge $end ]; do :; done
	kill -9 "$libvirtd"
	wait $! || true
	eventually 10 a7_is_gone "$libvirtd"
}

A7() {
	local name state inside='' one tries=0
	make_guest a7-01 --memory 192 --ballast 60
	up
	while [ -z "$inside" ] && [ $tries -lt 3 ]; do
		tries=$((tries + 1))
		name=inner-$tries
		a7_kill_in "$name"
		eventually 20 eval 'a7_inside | grep -qx "$name"' || true
		hypervisor start a "$dir" >/dev/null
		on "$dir" snapshot-list "$vm" --name | grep -qx "$name" || inside=$(a7_inside | grep -x "$name" || true)
		state=$(on "$dir" domstate "$vm")
		[ -n "$inside" ] || on "$dir" resume "$vm" >/dev/null 2>&1 || true
	done
	beside "kill -9 of libvirtd in virsh's internal snapshot (try $tries): VM $state, in the qcow2: ${inside:-nothing that is not listed}"
	if [ -n "$inside" ]; then
		check A7_the_orphan_is_listed eventually 20 a7_is_listed "$inside"
	else
		skip A7_the_orphan_is_listed "none came about in $tries kills"
	fi
	# What others have paused is theirs to resume: the agent works with the VM as it is.
	equal A7_nothing_is_resumed "$(on "$dir" domstate "$vm")" "$state"
	one=$(create "$dir" "$id" "consistency:CONSISTENCY_CRASH") && pass A7_a_checkpoint_can_be_made
	equal A7_still_as_it_was "$(on "$dir" domstate "$vm")" "$state"
	[ "$state" != paused ] || on "$dir" resume "$vm" >/dev/null
	guest mark "$dir" "$vm" after
	remove "$dir" "$one" >/dev/null && pass A7_and_deleted
	equal A7_the_orphan_is_still_there "$(a7_inside | grep -x "$inside" || true)" "$inside"
	equal A7_contents "$(guest cat "$dir" "$vm" /mnt/a/mark)" after
	whole A7_oracle
}

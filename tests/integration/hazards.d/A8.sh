# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# No space during a delete's commit: the base is half overwritten, the snapshot still listed

# small_folder MiB: a file system of its own at $small.
small_folder() {
	small=$dir/images/small
	truncate -s "$1M" "$dir/small.ext4"
	mkfs.ext4 -q -F -m 0 -E lazy_itable_init=0 "$dir/small.ext4"
	mkdir -p "$small"
	mount -o loop "$dir/small.ext4" "$small"
	chown --reference="$dir/home" "$small"
}

free_kib() { df -k --output=avail "$small" | tail -n 1 | tr -d ' '; }

# fill KiB: until so much is left, by one who must respect limits.
fill() {
	rm -f "$small/hog"
	hypervisor run "$dir" fallocate -l "$(($(free_kib) - $1))K" "$small/hog" 2>/dev/null || true
	[ "$1" != 0 ] || hypervisor run "$dir" dd if=/dev/zero of="$small/hog" bs=4k oflag=append conv=notrunc 2>/dev/null || true
}

# small_guest NAME FORMAT: shut off, with its disk on the small file system.
small_guest() {
	make_guest "$1" --size 64 --format "$2"
	moved_to_small "$2"
}
moved_to_small() { # FORMAT
	mv "$dir/images/$vm-vda.$1" "$small/"
	on "$dir" dumpxml --inactive "$vm" | sed "s|images/$vm-vda|images/small/$vm-vda|" >"$dir/small.xml"
	on "$dir" define "$dir/small.xml" >/dev/null
}

# Runs the agent until it has done so many steps, as a crash would end it.
crash_after() { # STEPS COMMAND...
	local steps=$1
	shift
	agent stop "$dir" b
	agent start "$dir" b --env VMCKPT_KILL_AT=$((3 * steps))
	"$@" >/dev/null 2>&1 || true
	agent wait-exit "$dir" b >/dev/null
}

# What the guest wrote 32 MiB of, as QEMU reads it through the present top.
pattern() { qemu-io -U -r -f "$2" -c "read -q -P $1 8M 32M" "$(top_of "$dir" "$vm" vda)" | grep -q 'verification failed' && return 1 || return 0; }
write_pattern() { hypervisor run "$dir" qemu-io -f qcow2 -c "write -q -P $1 8M 32M" "$(top_of "$dir" "$vm" vda)"; }

# off_on FORMAT: a shut-off VM whose base has that format.
off_on() {
	local one before base_file
	small_guest "a8-$1" "$1"
	base_file=$(top_of "$dir" "$vm" vda)
	one=$(create "$dir" "$id")
	write_pattern 0x5a
	fill 4096
	before=$(world "$dir")
	refused "A8_$1_too_little_space_is_refused" SPACE_LOW "MiB" ask DeleteCheckpoint "checkpoint_id:'$one'"
	unchanged "A8_$1_nothing_changed" "$dir" "$before"
	fill 40960
	crash_after 3 ask DeleteCheckpoint "checkpoint_id:'$one'"
	fill 0
	equal "A8_$1_reserved_and_then_full" "$(free_kib)" 0
	agent start "$dir" b
	check "A8_$1_merged_with_nothing_free" eventually 20 gone "$one"
	equal "A8_$1_on_its_first_file" "$(top_of "$dir" "$vm" vda)" "$base_file"
	check "A8_$1_newest_contents" pattern 0x5a "$1"
	rm -f "$small/hog"
	whole "A8_$1_oracle" "shut off"
	on "$dir" undefine "$vm" >/dev/null
	rm -f "$small"/a8-*
}

gone() { ! call "$dir" GetCheckpoint "checkpoint_id:'$1'" >/dev/null && [ "$(got .reason)" = CHECKPOINT_NOT_FOUND ]; }
state() { call "$dir" GetCheckpoint "checkpoint_id:'$1'" >/dev/null && got .checkpoint.state; }
settled() { call "$dir" ListOperations "filter{states:OPERATION_STATE_RUNNING}" >/dev/null && [ "$(got '.operations | length')" = 0 ]; }

# The same with virsh: 4 MiB of what it moves lie where the file below has data already, the rest wants room.
A8_by_virsh() {
	# shellcheck source=tests/integration/blank.sh
	. "$integration/blank.sh"
	local below over said status=0 device became="overwritten in part" newest=lost
	make_blank a8-virsh 1
	moved_to_small qcow2
	run_again
	device=$(monitor '{"execute":"query-block"}' | jq -r '.return[] | select(.inserted) | .qdev')
	below=$(top_of "$dir" "$vm" vda)
	monitor --hmp "qemu-io -d $device \"write -P 17 8388608 4194304\"" >/dev/null
	monitor --hmp "qemu-io -d $device flush" >/dev/null
	by_virsh one
	over=$(top_of "$dir" "$vm" vda)
	cp "$below" "$dir/a8-below.qcow2"
	monitor --hmp "qemu-io -d $device \"write -P 34 8388608 33554432\"" >/dev/null
	fill 6144
	said=$(on "$dir" blockcommit "$vm" vda --active --wait --pivot 2>&1) || status=$?
	! qemu-img compare -q -U "$dir/a8-below.qcow2" "$below" || became="as it was"
	! qemu-img compare -q -U "$over" "$below" || became="what lay above it"
	! pattern 34 qcow2 || newest=whole
	beside "virsh blockcommit of 32 MiB, of which 28 want room, with 6 MiB free: status $status (${said:-no word of why}); the file below, which is what the snapshot restores, is $became; the newest data is $newest; virsh snapshot-list: $(on "$dir" snapshot-list "$vm" --name | xargs)"
	rm -f "$small/hog" "$dir/a8-below.qcow2"
	throw_away
}

A8() {
	local dir=$base/b small one sum
	host b --limit reserve_bytes=0
	small_folder 160
	off_on qcow2
	off_on raw

	# Running; the reservation is taken away again and the disk filled, so that the commit fails half way.
	small_guest a8-live qcow2
	up
	one=$(create "$dir" "$id")
	guest exec "$dir" "$vm" sh -c 'dd if=/dev/urandom of=/mnt/a/big bs=1M count=24 2>/dev/null && sync'
	sum=$(guest sha256 "$dir" "$vm" /mnt/a/big)
	crash_after 3 ask DeleteCheckpoint "checkpoint_id:'$one'"
	truncate -s "$(stat -c %s "$small/a8-live-vda.qcow2")" "$small/a8-live-vda.qcow2"
	fill 6144
	agent start "$dir" b
	check A8_live_the_delete_ends eventually 20 settled
	equal A8_live_listed_as_deleting "$(state "$one")" CHECKPOINT_STATE_DELETING
	equal A8_live_and_disabled "$(enabled "$one")" false
	refused A8_live_not_restored CHECKPOINT_DELETING "begun" ask RestoreCheckpoint "checkpoint_id:'$one'"
	rm -f "$small/hog"
	# QEMU suspends a guest whose own writes find no space.
	on "$dir" resume "$vm" >/dev/null 2>&1 || true
	guest wait-agent "$dir" "$vm"
	equal A8_live_newest_contents "$(guest sha256 "$dir" "$vm" /mnt/a/big)" "$sum"
	check A8_live_a_repeated_delete_finishes remove "$dir" "$one"
	whole A8_live_oracle
	guest stop "$dir" "$vm"
	equal A8_live_contents_of_the_one_file "$(disk_file "$small/a8-live-vda.qcow2" qcow2 /big | sha256sum | cut -d ' ' -f 1)" "$sum"
	throw_away
	A8_by_virsh
	agent stop "$dir" b
	hypervisor stop b "$dir"
	! mountpoint -q "$small" || umount -l "$small" # "hypervisor stop" may have
}

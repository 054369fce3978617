# shellcheck shell=bash disable=SC2154,SC2034  # variables of "hazards"
# A disk shrunk or grown between checkpoints
virtual_size() { qemu-img info -U --output=json "$1" | jq '."virtual-size" / 1048576'; }

A29() {
	local one two safety before sum top
	make_guest a29-01 --size 64 --disks 2 --format raw
	up
	guest mark "$dir" "$vm" small
	one=$(create "$dir" "$id")
	top=$(top_of "$dir" "$vm" vda)
	on "$dir" blockresize "$vm" vda 96M >/dev/null
	guest mark "$dir" "$vm" grown
	two=$(create "$dir" "$id")

	# Restored: the size that was sealed, and back.
	safety=$(restore "$dir" "$one")
	equal A29_restored_with_the_sealed_size "$(virtual_size "$(top_of "$dir" "$vm" vda)")" 64
	restore "$dir" "$two" "discard_present_state:true" >/dev/null
	equal A29_restored_with_the_grown_size "$(virtual_size "$(top_of "$dir" "$vm" vda)")" 96
	remove "$dir" "$safety" >/dev/null

	# Grown, merged live: first the middle, then the top, into a raw file.
	up_again
	remove "$dir" "$one" >/dev/null && pass A29_grown_middle_merged_live
	equal A29_base_has_grown "$(stat -c %s "$dir/images/a29-01-vda.raw")" $((96 << 20))
	sum=$(guest exec "$dir" "$vm" sh -c 'dd if=/dev/urandom of=/mnt/a/big bs=1M count=2 2>/dev/null; sync; sha256sum /mnt/a/big' | cut -d ' ' -f 1)
	remove "$dir" "$two" >/dev/null && pass A29_grown_top_merged_live
	equal A29_live_contents "$(guest sha256 "$dir" "$vm" /mnt/a/big)" "$sum"
	equal A29_live_mark "$(guest cat "$dir" "$vm" /mnt/a/mark)" grown
	whole A29_oracle_live

	# Grown, merged offline.
	guest stop "$dir" "$vm"
	one=$(create "$dir" "$id")
	top=$(top_of "$dir" "$vm" vda)
	hypervisor run "$dir" qemu-img resize -q -f qcow2 "$top" 128M
	hypervisor run "$dir" qemu-io -f qcow2 -c 'write -q -P 0x29 120M 1M' "$top"
	remove "$dir" "$one" >/dev/null && pass A29_grown_top_merged_offline
	equal A29_base_has_grown_offline "$(stat -c %s "$dir/images/a29-01-vda.raw")" $((128 << 20))
	check A29_offline_contents qemu-io -r -f raw -c 'read -q -P 0x29 120M 1M' "$dir/images/a29-01-vda.raw"
	equal A29_offline_mark "$(disk_file "$dir/images/a29-01-vda.raw" raw /mark)" grown

	# Shrunk: by name, and nothing has changed.
	one=$(create "$dir" "$id")
	top=$(top_of "$dir" "$vm" vda)
	hypervisor run "$dir" qemu-img resize -q --shrink -f qcow2 "$top" 100M
	before=$(world "$dir")
	refused A29_shrunk_is_refused DISK_RESIZED "vda" ask DeleteCheckpoint "checkpoint_id:'$one'"
	unchanged A29_shrunk_nothing_changed "$dir" "$before"
	cp "$dir/images/a29-01-vda.raw" "$dir/images/beside.raw"
	qemu-img rebase -q -u -f qcow2 -F raw -b "$dir/images/beside.raw" "$top"
	qemu-img commit -q -d -f qcow2 "$top"
	beside "qemu-img commit of one shrunk from 128 to 100 MiB: the disk has $(virtual_size "$dir/images/beside.raw") MiB afterwards"
	qemu-img rebase -q -u -f qcow2 -F raw -b "$dir/images/a29-01-vda.raw" "$top"
	rm -f "$dir/images/beside.raw"
	hypervisor run "$dir" qemu-img resize -q -f qcow2 "$top" 128M
	remove "$dir" "$one" >/dev/null && pass A29_deleted_once_it_has_its_size_again
	whole A29_oracle_off "shut off"

	A29_block_device
}

# A block device at the bottom does not grow with its disk: it must be as large before the disk is merged into it.
A29_block_device() {
	local one top file=$dir/images/a29-02-vda.raw loop before
	make_guest a29-02 --size 64 --format raw
	loop=$(losetup -f --show "$file")
	chown --reference="$dir/home" "$loop"
	on "$dir" dumpxml "$vm" | sed "s|type='file' device='disk'|type='block' device='disk'|; s|<source file='[^']*-vda[^']*'|<source dev='$loop'|" >"$dir/block.xml"
	on "$dir" define "$dir/block.xml" >/dev/null
	refused A29_block_device_without_a_folder_for_overlays DISK_TYPE_UNSUPPORTED "block_overlay_folder" ask CreateCheckpoint "vm_id:'$id'"

	printf '[checkpoints]\nblock_overlay_folder = %s\n' "$(realpath "$dir/images")" >>"$dir/agent/config"
	agent stop "$dir" a
	agent start "$dir" a
	one=$(create "$dir" "$id")
	top=$(top_of "$dir" "$vm" vda)
	hypervisor run "$dir" qemu-img resize -q -f qcow2 "$top" 96M
	hypervisor run "$dir" qemu-io -f qcow2 -c 'write -q -P 0x29 80M 1M' "$top"
	before=$(world "$dir")
	refused A29_block_device_too_small_is_refused DISK_RESIZED "$loop" ask DeleteCheckpoint "checkpoint_id:'$one'"
	refused A29_with_the_size_needed DISK_RESIZED "grown to $((96 << 20)) bytes" ask DeleteCheckpoint "checkpoint_id:'$one'"
	unchanged A29_block_device_nothing_changed "$dir" "$before"
	truncate -s 96M "$file"
	losetup -c "$loop"
	remove "$dir" "$one" >/dev/null && pass A29_merged_once_the_device_is_as_large
	equal A29_the_device_is_the_disk_again "$(on "$dir" dumpxml --inactive "$vm" | xpath "string(//disk[target/@dev='vda']/source/@dev)")" "$loop"
	check A29_block_device_contents qemu-io -r -f raw -c 'read -q -P 0x29 80M 1M' "$loop"

	on "$dir" undefine "$vm" >/dev/null
	losetup -d "$loop"
	sed -i '/^\[checkpoints\]$/,$d' "$dir/agent/config"
	agent stop "$dir" a
	agent start "$dir" a
}

up_again() { guest wait-agent "$dir" "$vm"; }

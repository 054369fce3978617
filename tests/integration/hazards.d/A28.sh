# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# A raw disk into which its guest writes a qcow2 header
A28() {
	local one from
	make_guest a28-01 --format raw
	up
	guest mark "$dir" "$vm" one
	qemu-img create -q -u -f qcow2 -b /etc/passwd -F raw "$dir/a28-header" 1G
	head -c 1024 "$dir/a28-header" >"$dir/a28-bytes"
	guest exec "$dir" "$vm" --input "$dir/a28-bytes" dd of=/dev/vda bs=1024 count=1 conv=notrunc,fsync 2>/dev/null
	beside "qemu-img info of the raw disk: $(qemu-img info -U "$dir/images/a28-01-vda.raw" | grep -E 'file format|backing file:' | paste -sd, )"
	one=$(create "$dir" "$id")
	call "$dir" GetCheckpoint "checkpoint_id:'$one'"
	equal A28_format_is_the_definitions "$(got '.checkpoint.disks[0] | .format + " " + .virtualSizeBytes')" \
		"DISK_FORMAT_RAW 67108864"
	equal A28_overlay_says_raw "$(qemu-img info -U --output=json "$(top_of "$dir" "$vm" vda)" | jq -r '."backing-filename-format" + " " + (."virtual-size" | tostring)')" \
		"raw 67108864"
	guest mark "$dir" "$vm" two
	from=$(guest console-size "$dir" "$vm")
	local safety
	safety=$(restore "$dir" "$one")
	check A28_restored guest wait-line "$dir" "$vm" --from "$from" '^boot [0-9]+ vda=one '
	remove "$dir" "$safety" >/dev/null
	guest wait-agent "$dir" "$vm"
	guest mark "$dir" "$vm" three
	remove "$dir" "$one" >/dev/null && pass A28_merged_as_raw
	equal A28_one_file_again "$(top_of "$dir" "$vm" vda)" "$dir/images/a28-01-vda.raw"
	equal A28_of_its_size "$(stat -c %s "$dir/images/a28-01-vda.raw")" 67108864
	guest stop "$dir" "$vm"
	equal A28_merged_contents "$(disk_file "$dir/images/a28-01-vda.raw" raw /mark)" three
	one=$(create "$dir" "$id")
	remove "$dir" "$one" >/dev/null && pass A28_shut_off_too
	whole A28_oracle "shut off"
}

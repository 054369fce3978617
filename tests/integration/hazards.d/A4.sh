# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# Delete of a checkpoint with memory leaves the memory file
A4() {
	local file bytes
	make_guest a4-01
	up
	point=$(create "$dir" "$id" "$MEMORY")
	file=$(file_of "$point")
	call "$dir" GetCheckpoint "checkpoint_id:'$point'"
	bytes=$(got .checkpoint.memoryBytes)
	equal A4_memory_bytes "$(stat -c %s "$file")" "$bytes"
	check A4_counted_in_its_size [ "$(got .checkpoint.sizeBytes)" -ge "$bytes" ]
	remove "$dir" "$point"
	check A4_file_is_gone not test -e "$file"
	whole A4_oracle
	on "$dir" snapshot-create-as "$vm" by-virsh --diskspec "vda,file=$dir/images/a4-virsh.qcow2" --live \
		--memspec "$dir/images/a4-virsh.memory" >/dev/null
	on "$dir" snapshot-delete "$vm" by-virsh >/dev/null 2>&1 || on "$dir" snapshot-delete --metadata "$vm" by-virsh >/dev/null
	beside "virsh snapshot-delete leaves $(stat -c '%n, %s bytes' "$dir/images/a4-virsh.memory" 2>/dev/null || echo nothing)"
	guest stop "$dir" "$vm"
	rm -f "$dir"/images/a4-virsh.*
}

# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# An internal snapshot below an external overlay: virsh snapshot-revert ruins or stops; the agent refuses by name
A1() {
	local one inner before bottom
	make_guest a1-01 --memory 128
	bottom=$dir/images/a1-01-vda.qcow2
	on "$dir" snapshot-create-as "$vm" inner >/dev/null
	up
	guest mark "$dir" "$vm" one
	one=$(create "$dir" "$id")
	guest mark "$dir" "$vm" two
	inner=$(python3 -c 'import sys, uuid; print(uuid.uuid5(uuid.UUID(sys.argv[1]), sys.argv[2]))' "$id" inner)
	before=$(world "$dir")
	refused A1_restore_refused_by_name FOREIGN_SNAPSHOT_PRESENT "'inner'" ask RestoreCheckpoint "checkpoint_id:'$inner'"
	refused A1_delete_refused_by_name FOREIGN_SNAPSHOT_PRESENT "'inner'" ask DeleteCheckpoint "checkpoint_id:'$inner'"
	unchanged A1_nothing_changed "$dir" "$before"

	# The same with virsh, off: what becomes of ours below is found out.
	guest poweroff "$dir" "$vm"
	if on "$dir" snapshot-revert "$vm" inner >/dev/null 2>&1; then
		beside "virsh snapshot-revert below an overlay of the agent's: reported as done; the VM is on $(basename "$(top_of "$dir" "$vm" vda)")"
	else
		beside "virsh snapshot-revert below an overlay of the agent's: refused; the VM is on $(basename "$(top_of "$dir" "$vm" vda)")"
	fi
	call "$dir" GetCheckpoint "checkpoint_id:'$one'" >/dev/null
	if [ "$(disk_file "$bottom" qcow2 /mark)" = one ]; then
		pass A1_ours_is_whole
		equal A1_contents_are_the_checkpoints "$(contents_of "$dir" "$one")" one
	else
		equal A1_found_out_afterwards "$(got .checkpoint.enabled)" false
	fi
}

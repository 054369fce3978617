# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# The VM is defined again on its old path: the next boot writes into a sealed file
# shellcheck source=tests/integration/merges.sh
. "$integration/merges.sh"

# In the midst of a delete, when the sealed file may be written to: what the newest overlay holds is nowhere else
# yet, and the definition on the file below does not say that it was merged.
A22_in_a_delete() {
	local dir=$base/g one top below request
	host g --limit merge_mib_per_second=4
	make_guest a22-02
	on "$dir" dumpxml --inactive "$vm" >"$dir/wrong.xml"
	below=$(top_of "$dir" "$vm" vda)
	one=$(create "$dir" "$id")
	top=$(top_of "$dir" "$vm" vda)
	on "$dir" dumpxml --inactive "$vm" >"$dir/right.xml"
	hypervisor run "$dir" qemu-io -f qcow2 -c 'write -q -P 0x33 8M 16M' "$top"
	begin_delete "$one"
	check A22_delete_killed_in_the_midst merging 1
	agent kill "$dir" g
	check A22_delete_qemu_img_is_gone eventually 10 eval '! pgrep -f -- "qemu-img commit .*$top"'
	on "$dir" define "$dir/wrong.xml" >/dev/null
	agent start "$dir" g
	check A22_delete_is_given_up eventually 30 ended
	equal A22_delete_failed "$(operation .operation.state)" OPERATION_STATE_FAILED
	check A22_delete_says_what_to_do grep -qF "define the disk on $top" <<<"$(operation .operation.error.message)"
	check A22_delete_keeps_the_newest_file [ -e "$top" ]
	on "$dir" define "$dir/right.xml" >/dev/null
	check A22_delete_again remove "$dir" "$one"
	equal A22_delete_again_on_the_lower_file "$(top_of "$dir" "$vm" vda)" "$below"
	check A22_delete_again_contents hypervisor run "$dir" qemu-io -r -f qcow2 -c 'read -q -P 0x33 8M 16M' "$below"
	check A22_delete_again_nothing_left [ -z "$(find "$dir/images" -name "*.vmckpt-*")" ]
	check A22_delete_oracle eventually 10 oracle "$dir" "$vm" "shut off"
	agent stop "$dir" g
	hypervisor stop g "$dir"
}

A22() {
	A22_in_a_delete
	local one two base
	make_guest a22-01
	up
	guest mark "$dir" "$vm" one
	# As it stands in git, or in Terraform's state.
	on "$dir" dumpxml --inactive "$vm" >"$dir/a22-wrong.xml"
	one=$(create "$dir" "$id")
	guest mark "$dir" "$vm" two
	two=$(create "$dir" "$id")
	guest poweroff "$dir" "$vm"
	base=$dir/images/a22-01-vda.qcow2
	on "$dir" dumpxml --inactive "$vm" >"$dir/a22-right.xml"
	on "$dir" define "$dir/a22-wrong.xml" >/dev/null
	if on "$dir" start "$vm" >/dev/null 2>"$dir/a22-start"; then
		fail A22_sealed_file_cannot_be_written "the VM started on it"
		on "$dir" destroy "$vm"
	else
		pass A22_sealed_file_cannot_be_written
		beside "virsh start: $(grep -ao "Could not open.*" "$dir/a22-start" | tail -n 1)"
	fi
	refused A22_create_quarantines VM_QUARANTINED "$base" ask CreateCheckpoint "vm_id:'$id'"
	call "$dir" GetVirtualMachine "vm_id:'$id'"
	check A22_quarantine_is_told [ -n "$(got '.virtualMachine.quarantineReason')" ]
	equal A22_its_checkpoint_is_not_enabled "$(enabled "$one")" false
	equal A22_nor_those_above_it "$(enabled "$two")" false
	refused A22_restore_refused VM_QUARANTINED "$base" ask RestoreCheckpoint "checkpoint_id:'$one'"
	refused A22_delete_refused VM_QUARANTINED "$base" ask DeleteCheckpoint "checkpoint_id:'$one'"
	on "$dir" define "$dir/a22-right.xml" >/dev/null
	equal A22_enabled_again_once_mended "$(enabled "$one")" true
	local three
	three=$(create "$dir" "$id") && pass A22_quarantine_lifted
	remove "$dir" "$three" >/dev/null
	whole A22_oracle "shut off"

	# The same file by another name: a symbolic link in its path.
	ln -s images "$dir/a22-link"
	sed "s|/images/a22-01|/a22-link/a22-01|" "$dir/a22-wrong.xml" >"$dir/a22-link.xml"
	on "$dir" define "$dir/a22-link.xml" >/dev/null
	refused A22_by_another_name_quarantines VM_QUARANTINED "a22-01-vda" ask CreateCheckpoint "vm_id:'$id'"
	refused A22_by_another_name_restore_refused VM_QUARANTINED "a22-01-vda" ask RestoreCheckpoint "checkpoint_id:'$one'"
	equal A22_by_another_name_not_enabled "$(enabled "$one")" false
	on "$dir" define "$dir/a22-right.xml" >/dev/null
	equal A22_by_its_own_name_enabled_again "$(enabled "$one")" true

	# Somebody insists: makes it writable, and boots from it. Everything on it is ruined, and known to be.
	on "$dir" define "$dir/a22-wrong.xml" >/dev/null
	chmod 600 "$base"
	guest start "$dir" "$vm"
	guest wait-line "$dir" "$vm" '^resume ' >/dev/null
	equal A22_written_by_force_while_open "$(enabled "$one") $(enabled "$two")" "false false"
	guest stop "$dir" "$vm"
	on "$dir" define "$dir/a22-right.xml" >/dev/null
	equal A22_written_by_force_is_never_enabled "$(enabled "$one") $(enabled "$two")" "false false"
	refused A22_restore_of_a_changed_file_refused SEALED_FILE_CHANGED "changed" ask RestoreCheckpoint "checkpoint_id:'$one'"
	refused A22_restore_above_it_refused SEALED_FILE_CHANGED "changed" ask RestoreCheckpoint "checkpoint_id:'$two'"
	call "$dir" ListCheckpoints "filter{vm_id:'$id'}"
	equal A22_listed_with_the_reason "$(got '[.checkpoints[] | select(.disabledReason == "")] | length')" 0
}

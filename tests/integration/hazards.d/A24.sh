# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# A managed-save image: virsh start runs on on the sealed file
A24() {
	local one before
	make_guest a24-01
	up
	one=$(create "$dir" "$id")
	on "$dir" managedsave "$vm" >/dev/null
	before=$(world "$dir")
	refused A24_create_refused MANAGED_SAVE_PRESENT "managedsave-remove" ask CreateCheckpoint "vm_id:'$id'"
	refused A24_restore_refused MANAGED_SAVE_PRESENT "managed save" ask RestoreCheckpoint "checkpoint_id:'$one'"
	refused A24_delete_refused MANAGED_SAVE_PRESENT "managed save" ask DeleteCheckpoint "checkpoint_id:'$one'"
	unchanged A24_nothing_changed "$dir" "$before"
	local from
	from=$(guest console-size "$dir" "$vm")
	on "$dir" start "$vm" >/dev/null
	check A24_the_guest_goes_on guest wait-tick "$dir" "$vm" --from "$from"
	remove "$dir" "$one" >/dev/null && pass A24_works_again_without_it
	whole A24_oracle
	# In the midst of a create, before the disks are switched: its memory fits the files of then.
	request=$(new_id)
	agent stop "$dir" a
	agent start "$dir" a --env VMCKPT_PAUSE_AT=frozen
	"$support/agent" call "$dir" CreateCheckpoint "options{request_id:'$request'} vm_id:'$id'" >/dev/null 2>&1 &
	check A24_met_in_the_midst_of_a_create eventually 20 agent_stands
	on "$dir" managedsave "$vm" >/dev/null
	go_on
	check A24_that_create_ends eventually 30 ended
	equal A24_that_create_failed "$(operation .operation.state) $(operation .operation.error.reason)" "OPERATION_STATE_FAILED ERROR_REASON_MANAGED_SAVE_PRESENT"
	from=$(guest console-size "$dir" "$vm")
	on "$dir" start "$vm" >/dev/null
	check A24_the_guest_goes_on_then_too guest wait-tick "$dir" "$vm" --from "$from"
	whole A24_oracle_then
	on "$dir" managedsave "$vm" >/dev/null
	if on "$dir" snapshot-create-as "$vm" by-virsh --disk-only --no-metadata >/dev/null 2>&1; then
		beside "virsh snapshot-create-as --disk-only beside a managed save: accepted"
	else
		beside "virsh snapshot-create-as --disk-only beside a managed save: refused"
	fi
	on "$dir" managedsave-remove "$vm" >/dev/null
}

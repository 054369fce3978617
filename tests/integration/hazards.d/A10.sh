# shellcheck shell=bash disable=SC2154,SC2034  # variables of "hazards"
# QEMU hangs: calls on that VM end in bounded time, other VMs are as before
A10() {
	local one other other_id started pid hung
	make_guest a10-02
	other=$vm other_id=$id
	make_guest a10-01
	up
	guest mark "$dir" "$vm" kept
	one=$(create "$dir" "$id")
	guest mark "$dir" "$vm" newest
	pid=$(pgrep -f -- "-name guest=$vm,.*$dir/")
	kill -STOP "$pid"

	started=$EPOCHREALTIME
	hung=$(new_id)
	refused A10_refused_by_name VM_BUSY "QEMU of VM $vm" call "$dir" CreateCheckpoint \
		"options{request_id:'$hung' wait{seconds:60}} vm_id:'$id'"
	check A10_in_bounded_time [ "${started%.*}" -gt $((${EPOCHREALTIME%.*} - 25)) ]
	started=$EPOCHREALTIME
	create "$dir" "$other_id" >/dev/null && pass A10_other_vm_is_checkpointed
	call "$dir" ListVirtualMachines >/dev/null && call "$dir" GetVirtualMachine "vm_id:'$other_id'" >/dev/null &&
		pass A10_others_are_shown
	check A10_within_seconds [ "${started%.*}" -gt $((${EPOCHREALTIME%.*} - 10)) ]
	echo "     another VM meanwhile: $(seconds_since "$started") s"
	started=$EPOCHREALTIME
	timeout 6 virsh -q -c "$(hypervisor uri "$dir")" domblkinfo "$vm" vda >/dev/null 2>&1 || true
	beside "virsh domblkinfo of the hung VM: no answer within $(seconds_since "$started") s (libvirt waits 30)"

	kill -CONT "$pid"
	check A10_settled_when_it_is_back eventually 60 no_operation_runs
	guest wait-tick "$dir" "$vm" >/dev/null
	equal A10_newest_contents "$(guest cat "$dir" "$vm" /mnt/a/mark)" newest
	whole A10_oracle
	for one in $(call "$dir" ListCheckpoints "filter{vm_id:'$id'}" >/dev/null; got '.checkpoints[].checkpointId'); do
		remove "$dir" "$one" >/dev/null || fail A10_delete "$reply"
	done
	equal A10_contents_after_deletes "$(guest cat "$dir" "$vm" /mnt/a/mark)" newest
}

no_operation_runs() {
	call "$dir" ListOperations "filter{states:[OPERATION_STATE_RUNNING,OPERATION_STATE_QUEUED]}" >/dev/null &&
		[ "$(got '.operations // [] | length')" = 0 ]
}

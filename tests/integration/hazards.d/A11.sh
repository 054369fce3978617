# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# The guest agent hangs after the freeze: libvirt waits for ever, the guest stands still
A11() {
	# Once after the kill, once after the late freeze.
	thawed_late() { [ "$(agent log "$dir" a | grep -c "VM $id: the thaw guard thawed [1-9]")" = 2 ]; }
	make_guest a11-01
	up
	agent kill "$dir" a
	printf '[limits]\nguest_agent_seconds = 2\n' >>"$dir/agent/config"
	agent start "$dir" a --env VMCKPT_KILL_AT=frozen
	ask CreateCheckpoint "vm_id:'$id' minimum_consistency:CONSISTENCY_APPLICATION" || true
	equal A11_the_agent_died_while_the_guest_was_frozen "$(agent wait-exit "$dir" a)" 137
	check A11_the_guest_goes_on_without_an_agent guest wait-tick "$dir" "$vm" --within 10
	agent start "$dir" a
	guest wait-agent "$dir" "$vm"
	# shellcheck disable=SC2016  # the guest's shell expands these
	guest exec "$dir" "$vm" sh -c '(sleep 2; kill -STOP $(pidof qemu-ga); sleep 8; kill -CONT $(pidof qemu-ga)) </dev/null >/dev/null 2>&1 &'
	sleep 3
	local began=$EPOCHREALTIME end=$((SECONDS + 30))
	until ask CreateCheckpoint "vm_id:'$id'" || [ "$(got .reason)" != AGENT_STARTING ] || [ $SECONDS -ge $end ]; do sleep 0.1; done
	equal A11_falls_back_within_its_limit "$(got .checkpoint.consistencyReached)" CONSISTENCY_CRASH
	echo "     waited for a guest agent that hangs: $(seconds_since "$began") s"
	# It wakes and freezes late; the thaw guard is still there.
	check A11_thawed_late eventually 25 thawed_late
	check A11_ticks guest wait-tick "$dir" "$vm" --within 10
	whole A11_oracle
	A11_by_virsh
	sed -i '/^\[limits\]$/,$d' "$dir/agent/config"
	agent kill "$dir" a
	agent start "$dir" a
}

# The same with virsh, which is given up after a while.
A11_by_virsh() {
	local status=0 began stands="goes on" thawed="stands still"
	# shellcheck disable=SC2016  # the guest's shell expands these
	guest exec "$dir" "$vm" sh -c '(sleep 1; kill -STOP $(pidof qemu-ga); sleep 6; kill -CONT $(pidof qemu-ga)) </dev/null >/dev/null 2>&1 &'
	on "$dir" guest-agent-timeout "$vm" --timeout -2 >/dev/null # libvirt's default again
	sleep 1.5
	began=$EPOCHREALTIME
	timeout 4 virsh -q -c "$(hypervisor uri "$dir")" domfsfreeze "$vm" >/dev/null 2>&1 || status=$?
	began=$(seconds_since "$began")
	sleep 4 # it wakes meanwhile
	guest wait-tick "$dir" "$vm" --within 3 >/dev/null 2>&1 || stands="stands still"
	on "$dir" domfsthaw "$vm" >/dev/null 2>&1 || true
	! guest wait-tick "$dir" "$vm" --within 10 >/dev/null 2>&1 || thawed="goes on"
	beside "virsh domfsfreeze with a guest agent that hangs: $([ $status = 124 ] && echo "no answer" || echo "status $status") in $began s; when that wakes, virsh is gone and the guest $stands; after virsh domfsthaw it $thawed"
}

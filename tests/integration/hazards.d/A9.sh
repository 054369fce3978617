# shellcheck shell=bash disable=SC2154,SC2034  # variables of "hazards"
# QEMU, libvirtd or the agent killed in mid-commit: the base is part-overwritten
# shellcheck source=tests/integration/merges.sh
. "$integration/merges.sh"

A9() {
	local dir=$base/c one sum tick request
	host c --limit merge_mib_per_second=4
	make_guest a9-01
	up

	one=$(create "$dir" "$id")
	sum=$(big /mnt/a)
	begin_delete "$one"
	check A9_agent_killed_in_the_midst merging 1000000
	agent kill "$dir" c
	agent start "$dir" c
	check A9_agent_finishes_by_itself eventually 30 gone "$one"
	equal A9_agent_contents "$(guest sha256 "$dir" "$vm" /mnt/a/big)" "$sum"
	whole A9_agent_oracle

	one=$(create "$dir" "$id")
	sum=$(big /mnt/a)
	tick=$(last_tick "$dir" "$vm")
	begin_delete "$one"
	merging 1000000
	hypervisor kill c "$dir"
	hypervisor start c "$dir" >/dev/null
	check A9_libvirtd_killed_and_finished eventually 40 gone "$one"
	check A9_libvirtd_guest_counted_on [ "$(guest wait-tick "$dir" "$vm")" -gt "$tick" ]
	equal A9_libvirtd_contents "$(guest sha256 "$dir" "$vm" /mnt/a/big)" "$sum"
	whole A9_libvirtd_oracle

	one=$(create "$dir" "$id")
	sum=$(big /mnt/a)
	begin_delete "$one"
	merging 1000000
	kill -9 "$(qemu_pid)"
	check A9_qemu_killed_the_delete_ends eventually 30 ended
	[ "$(operation .operation.state)" = OPERATION_STATE_SUCCEEDED ] || {
		equal A9_qemu_listed_as_deleting "$(state "$one")" CHECKPOINT_STATE_DELETING
		equal A9_qemu_contents_before "$(big_on vda)" "$sum"
		remove "$dir" "$one" || fail A9_qemu_repeated_delete "$reply"
	}
	check A9_qemu_finished gone "$one"
	equal A9_qemu_contents "$(big_on vda)" "$sum"
	whole A9_qemu_oracle "shut off"

	make_guest a9-02
	up
	local bottom=$dir/images/a9-02-vda.qcow2
	on "$dir" snapshot-create-as "$vm" by-virsh --disk-only --no-metadata >/dev/null
	sum=$(big /mnt/a)
	on "$dir" blockcommit "$vm" vda --active --bandwidth 4 >/dev/null
	sleep 1.5 # there is no other way to be in the midst of it
	kill -9 "$(qemu_pid)"
	beside "virsh blockcommit, QEMU killed: the base has $(qemu-img compare -q "$bottom" "$(top_of "$dir" "$vm" vda)" && echo "all" || echo "a part") of the newest data, and nothing says so"
	agent stop "$dir" c
	hypervisor stop c "$dir"
}

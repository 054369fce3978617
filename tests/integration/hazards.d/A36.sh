# shellcheck shell=bash disable=SC2154,SC2034  # variables of "hazards"
# The owner moves a disk to another target, or detaches it, between the begin of a delete and its end
# shellcheck source=tests/integration/merges.sh
. "$integration/merges.sh"

# a36_move FROM [TO BUS]: in the definition; without TO it is taken away.
a36_move() {
	on "$dir" dumpxml --inactive --security-info "$vm" | python3 -c '
import sys, xml.etree.ElementTree as tree
at, *to = sys.argv[1:]
domain = tree.parse(sys.stdin).getroot()
devices = domain.find("devices")
for disk in devices.findall("disk"):
    target = disk.find("target")
    if target.get("dev") != at:
        continue
    if not to:
        devices.remove(disk)
        continue
    target.set("dev", to[0])
    target.set("bus", to[1])
    disk.remove(disk.find("address"))
tree.dump(domain)' "$@" >"$base/moved.xml"
	on "$dir" define "$base/moved.xml" >/dev/null
}

quarantined() { call "$dir" GetVirtualMachine "vm_id:'$id'" >/dev/null && got '.virtualMachine.quarantineReason // ""'; }

# a36_begin CHECKPOINT: its delete, cut off in the midst of the merge, and the VM is off.
a36_begin() {
	begin_delete "$1"
	merging 1000000
	agent kill "$dir" d
	on "$dir" destroy "$vm" >/dev/null
}

A36() {
	local dir=$base/d one two sum then safety request
	host d --limit merge_mib_per_second=4
	make_guest a36-01
	up

	one=$(create "$dir" "$id")
	sum=$(big /mnt/a)
	a36_begin "$one"
	a36_move vda sdb sata
	agent start "$dir" d
	check A36_finished_on_another_bus eventually 30 gone "$one"
	equal A36_contents_on_another_bus "$(big_on sdb)" "$sum"
	equal A36_not_quarantined "$(quarantined)" ""
	whole A36_oracle_on_another_bus "shut off"

	a36_move sdb vda virtio
	up
	one=$(create "$dir" "$id")
	sum=$(big /mnt/a)
	a36_begin "$one"
	a36_move vda vdc virtio
	up
	agent start "$dir" d
	check A36_finished_in_the_running_vm eventually 30 gone "$one"
	equal A36_contents_in_the_running_vm "$(guest sha256 "$dir" "$vm" /mnt/a/big)" "$sum"
	whole A36_oracle_in_the_running_vm

	then=$sum
	two=$(create "$dir" "$id")
	guest mark "$dir" "$vm" later
	one=$(create "$dir" "$id")
	sum=$(big /mnt/a)
	a36_begin "$one"
	on "$dir" dumpxml --inactive --security-info "$vm" >"$base/whole.xml"
	a36_move vdc
	agent start "$dir" d
	check A36_detached_the_delete_ends eventually 30 ended
	equal A36_detached_is_said "$(operation .operation.error.reason)" ERROR_REASON_DISK_DETACHED
	equal A36_detached_is_not_quarantined "$(quarantined)" ""
	on "$dir" define "$base/whole.xml" >/dev/null
	a36_move vdc vdd virtio
	equal A36_detached_nothing_was_lost "$(big_on vdd)" "$sum"
	check A36_attached_again_it_is_finished remove "$dir" "$one"
	equal A36_attached_again_contents "$(big_on vdd)" "$sum"
	whole A36_attached_again_oracle "shut off"

	# A restore brings back the hardware of then, its targets too, and can be undone.
	safety=$(restore "$dir" "$two" "power_state:RESTORE_POWER_STATE_SHUT_OFF")
	check A36_restored_to_its_target [ -n "$(top_of "$dir" "$vm" vdc)" ]
	equal A36_restored_without_the_other "$(top_of "$dir" "$vm" vdd)" ""
	equal A36_restored_contents "$(big_on vdc)" "$then"
	restore "$dir" "$safety" "discard_present_state:true" >/dev/null
	equal A36_undone_contents "$(big_on vdd)" "$sum"
	whole A36_undone_oracle "shut off"
	agent stop "$dir" d
	hypervisor stop d "$dir"
}

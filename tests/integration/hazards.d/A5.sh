# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# libvirtd killed in a snapshot: QEMU writes to the overlay, libvirt names the base
quarantine() { call "$dir" GetVirtualMachine "vm_id:'$id'" && got '.virtualMachine.quarantineReason'; }
is_quarantined() { [ -n "$(quarantine)" ]; }
is_trusted() { [ -z "$(quarantine)" ]; }
defined_on() { [ "$(top_of "$dir" "$vm" vda)" = "$1" ]; }
agent_stands() { grep -q '^State:[[:space:]]*T' "/proc/$(agent pid "$dir" a)/status"; }
logged() { agent log "$dir" a | grep -qF -- "$1"; }

# What A5 leaves: libvirtd's own record of the running VM, and the definition, name FILE.
forget_overlay() { # FILE
	on "$dir" dumpxml --inactive "$vm" | sed "s|<source file='[^']*-vda[^']*'|<source file='$1'|" >"$dir/a5.xml"
	on "$dir" define "$dir/a5.xml" >/dev/null
	hypervisor kill a "$dir"
	python3 - "$(records_of "$dir")/$vm.xml" "$1" <<-'END'
		import sys, xml.etree.ElementTree as ET
		tree = ET.parse(sys.argv[1])
		disk = next(d for d in tree.getroot().find("domain").iter("disk"))
		below = disk.find("backingStore")
		source = disk.find("source")
		source.attrib.clear()
		source.set("file", sys.argv[2])
		for child in list(source):
		    source.remove(child)
		for child in below.find("source"):
		    source.append(child)
		disk.remove(below)
		disk.append(below.find("backingStore"))
		tree.write(sys.argv[1])
	END
	hypervisor start a "$dir" >/dev/null
}

A5() {
	local one bottom overlay from
	make_guest a5-02
	guest start "$dir" a5-02 # while the other is looked at
	make_guest a5-01
	up
	guest mark "$dir" "$vm" one
	bottom=$(top_of "$dir" "$vm" vda)
	on "$dir" dumpxml --inactive "$vm" >"$dir/a5-old.xml"
	one=$(create "$dir" "$id")
	overlay=$(top_of "$dir" "$vm" vda)

	# The definition alone: put right at once.
	on "$dir" define "$dir/a5-old.xml" >/dev/null
	check A5_definition_is_put_right eventually 10 defined_on "$overlay"
	check A5_that_is_logged logged "and was put right"
	check A5_and_all_is_trusted_again eventually 10 is_trusted
	whole A5_oracle_then

	# Its owner edits it at the same instant: both stay.
	agent stop "$dir" a
	agent start "$dir" a --env VMCKPT_PAUSE_AT=defining
	on "$dir" define "$dir/a5-old.xml" >/dev/null
	check A5_met_while_it_puts_it_right eventually 10 agent_stands
	on "$dir" dumpxml --inactive "$vm" | sed 's|</name>|</name><title>of its owner</title>|' >"$dir/a5-edit.xml"
	on "$dir" define "$dir/a5-edit.xml" >/dev/null
	kill -CONT "$(agent pid "$dir" a)"
	check A5_put_right_beside_an_edit eventually 10 defined_on "$overlay"
	equal A5_and_the_edit_is_kept "$(on "$dir" desc "$vm" --title --config)" "of its owner"
	check A5_trusted_after_the_edit eventually 10 is_trusted
	agent stop "$dir" a
	agent start "$dir" a

	# What libvirt believes of the running VM too.
	forget_overlay "$bottom"
	guest mark "$dir" "$vm" newest
	equal A5_libvirt_is_wrong "$(on "$dir" domblklist "$vm" | awk '$1 == "vda" {print $2}')" "$bottom"
	check A5_put_right_when_libvirt_is_back eventually 10 defined_on "$overlay"
	check A5_quarantined eventually 10 is_quarantined
	refused A5_create_refused CHAIN_MISMATCH "$bottom" ask CreateCheckpoint "vm_id:'$id'"
	refused A5_restore_refused CHAIN_MISMATCH "$bottom" ask RestoreCheckpoint "checkpoint_id:'$one'"
	refused A5_delete_refused CHAIN_MISMATCH "$bottom" ask DeleteCheckpoint "checkpoint_id:'$one'"
	check A5_the_overlay_is_there [ -s "$overlay" ]
	guest stop "$dir" "$vm"
	from=$(guest console-size "$dir" "$vm")
	guest start "$dir" "$vm"
	check A5_power_cycle_boots_the_newest guest wait-line "$dir" "$vm" --from "$from" '^boot [0-9]+ vda=newest '
	check A5_then_no_quarantine eventually 10 is_trusted
	equal A5_checkpoint_is_enabled "$(enabled "$one")" true
	whole A5_oracle
	restore "$dir" "$one" >/dev/null
	equal A5_checkpoint_is_whole "$(disk_file "$(top_of "$dir" "$vm" vda)" qcow2 /mark)" one

	# An overlay of somebody else's making, which libvirt knows nothing of.
	local node foreign=$dir/images/a5-01-foreign.qcow2
	overlay=$(top_of "$dir" "$vm" vda)
	overlay "$foreign" "$overlay" qcow2
	chown --reference="$overlay" "$foreign" # QEMU's user's
	node=$(on "$dir" qemu-monitor-command "$vm" '{"execute":"query-block"}' |
		jq -r --arg f "$overlay" '.return[].inserted | select(.file == $f) | ."node-name"')
	on "$dir" qemu-monitor-command "$vm" '{"execute":"blockdev-add","arguments":{"driver":"qcow2","node-name":"foreign",
		"file":{"driver":"file","filename":"'"$foreign"'"},"backing":null}}' >/dev/null
	on "$dir" qemu-monitor-command "$vm" '{"execute":"blockdev-snapshot","arguments":{"node":"'"$node"'","overlay":"foreign"}}' >/dev/null
	hypervisor kill a "$dir"
	hypervisor start a "$dir" >/dev/null
	check A5_foreign_overlay_quarantines eventually 20 is_quarantined
	check A5_with_the_command_that_helps grep -qF "qemu-monitor-command $vm --hmp info block" <<<"$(quarantine)"
	check A5_which_names_the_file grep -qF "$foreign" <<<"$(on "$dir" qemu-monitor-command "$vm" --hmp info block)"
	equal A5_foreign_definition_left_alone "$(top_of "$dir" "$vm" vda)" "$overlay"

	# The same with virsh alone.
	vm=a5-02
	guest wait-agent "$dir" "$vm"
	bottom=$(top_of "$dir" "$vm" vda)
	on "$dir" dumpxml --inactive "$vm" >"$dir/a5-old.xml"
	on "$dir" snapshot-create-as "$vm" by-virsh --disk-only --no-metadata >/dev/null
	on "$dir" define "$dir/a5-old.xml" >/dev/null
	guest mark "$dir" "$vm" newest
	guest stop "$dir" "$vm"
	if defined_on "$bottom"; then
		beside "virsh, the same disagreement: it would boot from $(basename "$bottom"), whose mark is \"$(disk_file "$bottom" qcow2 /mark)\", not \"newest\""
	fi
}

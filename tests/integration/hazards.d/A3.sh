# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# A definition with a stale <backingStore>: the VM would run on the wrong chain
A3() {
	local one two from
	make_guest a3-01
	up
	guest mark "$dir" "$vm" one
	one=$(create "$dir" "$id")
	guest mark "$dir" "$vm" two
	# As people do: what dumpxml prints of the running VM, with its whole chain, is defined again.
	on "$dir" dumpxml "$vm" >"$dir/a3.xml"
	check A3_definition_tells_its_chain grep -q "<backingStore type='file'" "$dir/a3.xml"
	on "$dir" define "$dir/a3.xml" >/dev/null
	two=$(create "$dir" "$id")
	guest mark "$dir" "$vm" three
	from=$(guest console-size "$dir" "$vm")
	restore "$dir" "$two" >/dev/null
	check A3_restored_on_the_right_chain guest wait-line "$dir" "$vm" --from "$from" '^boot [0-9]+ vda=two '
	whole A3_chains_agree
	from=$(guest console-size "$dir" "$vm")
	guest wait-agent "$dir" "$vm"
	restore "$dir" "$one" >/dev/null
	check A3_and_below_it guest wait-line "$dir" "$vm" --from "$from" '^boot [0-9]+ vda=one '
	guest stop "$dir" "$vm"

	# The same by hand: a fresh overlay on two's file, defined with the chain that one had.
	local sealed base
	call "$dir" GetCheckpoint "checkpoint_id:'$two'"
	sealed=$(got '.checkpoint.disks[0].sealedFile')
	call "$dir" GetCheckpoint "checkpoint_id:'$one'"
	base=$(got '.checkpoint.disks[0].sealedFile')
	overlay "$dir/a3-by-hand.qcow2" "$sealed" qcow2
	overlay "$dir/a3-stale.qcow2" "$base" qcow2
	python3 - "$dir/a3.xml" "$dir/a3-by-hand.qcow2" "$base" >"$dir/a3-hand.xml" <<-'END'
		import sys, xml.etree.ElementTree as ET
		tree = ET.parse(sys.argv[1])
		disk = next(d for d in tree.getroot().iter("disk"))
		disk.find("source").set("file", sys.argv[2])
		for old in disk.findall("backingStore"):
		    disk.remove(old)
		store = ET.SubElement(disk, "backingStore", type="file")
		ET.SubElement(store, "format", type="qcow2")
		ET.SubElement(store, "source", file=sys.argv[3])
		ET.SubElement(store, "backingStore")
		tree.write(sys.stdout, encoding="unicode")
	END
	on "$dir" define "$dir/a3-hand.xml" >/dev/null
	guest start "$dir" "$vm"
	beside "virsh define with a stale <backingStore>, two restored by hand: $(guest wait-line "$dir" "$vm" '^boot ' | tr -d '\r')"
	guest stop "$dir" "$vm"
	refused A3_agent_refuses_that_definition CHAIN_MISMATCH "headers" ask CreateCheckpoint "vm_id:'$id'"
	rm -f "$dir"/a3-by-hand.qcow2 "$dir/a3-stale.qcow2"
	throw_away
}

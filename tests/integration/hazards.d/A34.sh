# shellcheck shell=bash disable=SC2154,SC2034  # variables of "hazards"
# A memory image that cannot be loaded is found out when the VM has been stopped

# refused_memory NAME WORD: and the VM runs on.
refused_memory() {
	refused "A34_$1" MEMORY_UNLOADABLE "$2" ask RestoreCheckpoint "checkpoint_id:'$point'"
	refused "A34_$1_foreseen" MEMORY_UNLOADABLE "$2" \
		call "$dir" RestoreCheckpoint "options{request_id:'$(new_id)' validate_only:true} checkpoint_id:'$point'"
	check "A34_$1_vm_untouched" guest wait-tick "$dir" "$vm" "$after"
	check "A34_$1_not_booted" not booted_since "$start"
}

A34() {
	local file stamp emulator=$dir/qemu-here start
	vm=a34-01
	ln -s "$(type -P qemu-system-x86_64)" "$emulator"
	truncate -s 1M "$dir/images/some.iso"
	chown --reference="$dir/home" "$dir/images/some.iso"
	guest make "$dir" "$vm" --print | sed "s|<emulator>.*</emulator>|<emulator>$emulator</emulator>|
		s|<controller type='usb'|<disk type='file' device='cdrom'><source file='$dir/images/some.iso'/><target dev='sda' bus='sata'/><readonly/></disk>&|" >"$dir/a34.xml"
	on "$dir" define "$dir/a34.xml" >/dev/null
	id=$(vm_id "$dir" "$vm")
	guest start "$dir" "$vm"
	start=$(guest console-size "$dir" "$vm")
	guest wait-line "$dir" "$vm" '^resume ' >/dev/null
	capture
	start=$(guest console-size "$dir" "$vm")
	file=$(file_of "$point")

	mv "$dir/images/some.iso" "$dir/away.iso"
	refused_memory medium "some.iso"
	mv "$dir/away.iso" "$dir/images/some.iso"
	mv "$emulator" "$emulator.away"
	refused_memory emulator "$emulator"
	mv "$emulator.away" "$emulator"
	mv "$file" "$file.away"
	refused_memory file "missing"
	equal A34_not_enabled "$(call "$dir" GetCheckpoint "checkpoint_id:'$point'" >/dev/null && got .checkpoint.enabled)" false
	mv "$file.away" "$file"
	equal A34_enabled_again "$(call "$dir" GetCheckpoint "checkpoint_id:'$point'" >/dev/null && got .checkpoint.enabled)" true

	# What only QEMU can find: it is found after the stop, and the VM boots as before.
	stamp=$(stat -c %y "$file")
	dd if=/dev/zero of="$file" bs=1M seek=1 count=8 conv=notrunc 2>/dev/null
	touch -d "$stamp" "$file"
	refused A34_in_itself HYPERVISOR_FAILED "memory" ask RestoreCheckpoint "checkpoint_id:'$point'"
	check A34_then_boots_as_before guest wait-line "$dir" "$vm" --from "$start" '^boot '
	check A34_then_runs eventually 20 state_is running
	whole A34_oracle
	# A name is changed while the VM is off; its disks can be restored all the same.
	guest stop "$dir" "$vm"
	on "$dir" domrename "$vm" a34-renamed
	refused A34_renamed MEMORY_UNLOADABLE "a34-renamed" ask RestoreCheckpoint "checkpoint_id:'$point'"
	on "$dir" domrename a34-renamed "$vm"
	start=$(guest console-size "$dir" "$vm")
	restore "$dir" "$point" "without_memory:true" >/dev/null
	check A34_disks_alone guest wait-line "$dir" "$vm" --from "$start" '^boot '
	whole A34_at_last
	guest stop "$dir" "$vm"
}

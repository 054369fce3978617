# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# An overlay whose header names another file
A25() {
	make_guest a25-01
	up
	cp "$dir/images/a25-01-vda.qcow2" "$dir/images/a25-01-other.qcow2"
	chown --reference="$dir/home" "$dir/images/a25-01-other.qcow2"
	overlay "$dir/images/a25-01-over.qcow2" "$dir/images/a25-01-other.qcow2" qcow2
	on "$dir" snapshot-create-as "$vm" by-virsh --disk-only --no-metadata --reuse-external \
		--diskspec "vda,file=$dir/images/a25-01-over.qcow2" >/dev/null &&
		beside "virsh --reuse-external with a header that names another file: accepted"
	local files
	files=$(ls "$dir/images")
	refused A25_create_refused CHAIN_MISMATCH "header" ask CreateCheckpoint "vm_id:'$id'"
	call "$dir" GetVirtualMachine "vm_id:'$id'"
	check A25_quarantined [ -n "$(got '.virtualMachine.quarantineReason')" ]
	equal A25_no_file_made "$(ls "$dir/images")" "$files"
	check A25_the_guest_goes_on guest wait-tick "$dir" "$vm"
	guest stop "$dir" "$vm"
	qemu-img rebase -q -u -f qcow2 -F qcow2 -b "$dir/images/a25-01-vda.qcow2" "$dir/images/a25-01-over.qcow2"
	local one
	one=$(create "$dir" "$id") && pass A25_accepted_once_mended
	call "$dir" GetVirtualMachine "vm_id:'$id'"
	equal A25_quarantine_lifted "$(got '.virtualMachine.quarantineReason')" ""
	remove "$dir" "$one" >/dev/null
}

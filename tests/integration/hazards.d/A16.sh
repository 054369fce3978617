# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# Disk-only checkpoints do not hold UEFI variables: the agent's do, and say what they lack

# uefi NAME SED-PROGRAM: a guest that boots by UEFI, as the program makes of the definition; sets "$vm" and $id.
uefi() {
	vm=$1
	guest make "$dir" "$vm" --memory 192 --print | sed -e "$2" >"$dir/$vm.xml"
	on "$dir" define "$dir/$vm.xml" >/dev/null
	id=$(vm_id "$dir" "$vm")
}

sum() { sha256sum <"$1" | cut -c 1-16; }
nvram_of() { call "$dir" GetCheckpoint "checkpoint_id:'$1'" && got '.checkpoint.files[]? | select(.kind == "FILE_KIND_NVRAM") | .path'; }

A16() {
	local store=$dir/images/a16-01_VARS.fd code=/usr/share/OVMF/OVMF_CODE_4M.fd one before written safety copy owner
	uefi a16-01 "s|<type arch.*|&<loader readonly='yes' type='pflash'>$code</loader><nvram template='${code/CODE/VARS}'>$store</nvram>|;s|</devices>|<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/null'/></backend></tpm>&|"
	# Never started: there are no variables yet, which is said, as is the TPM.
	call "$dir" CreateCheckpoint "options{request_id:'$(new_id)'} vm_id:'$id' checkpoint_name:'bare'"
	one=$(got .checkpoint.checkpointId)
	equal A16_what_is_lacking_is_told "$(got '.checkpoint.notCaptured | map(split(":")[0] | split(" (")[0]) | sort | join(", ")')" \
		"UEFI variables, the TPM's state"
	check A16_what_is_lacking_is_warned_of grep -q "TPM" <<<"$(got '.warnings[]')"
	remove "$dir" "$one" >/dev/null
	on "$dir" dumpxml --inactive --security-info "$vm" | sed '/<tpm/,/<\/tpm>/d' >"$dir/$vm.xml"
	on "$dir" define "$dir/$vm.xml" >/dev/null

	up
	guest mark "$dir" "$vm" one
	one=$(create "$dir" "$id")
	copy=$(nvram_of "$one")
	equal A16_copied_while_it_runs "$(sum "$copy") $(stat -c '%a %s' "$copy")" "$(sum "$store") 600 $(stat -c %s "$store")"
	before=$(sum "$copy")
	check A16_in_the_manifest grep -qF "$copy" "$dir/images/a16-01-vda.qcow2.vmckpt.json"
	guest stop "$dir" "$vm"
	# Another boot entry, say: the store as its vendor made it.
	cat "${code/CODE/VARS}" >"$store"
	written=$(sum "$store")
	owner=$(stat -c '%U:%G %a' "$store")
	guest start "$dir" "$vm"
	safety=$(restore "$dir" "$one" "power_state:RESTORE_POWER_STATE_SHUT_OFF")
	equal A16_restored_with_the_checkpoint "$(sum "$store")" "$before"
	equal A16_kept_by_the_safety_checkpoint "$([ "$(sum "$(nvram_of "$safety")")" = "$before" ] || echo another)" another
	equal A16_owner_and_mode_as_before "$(stat -c '%U:%G %a' "$store")" "$owner"
	up
	equal A16_the_restored_guest_boots "$(guest cat "$dir" "$vm" /mnt/a/mark)" one
	# A copy that was changed is no longer what was captured.
	guest stop "$dir" "$vm"
	printf x | dd of="$copy" bs=1 seek=100000 conv=notrunc status=none
	refused A16_changed_copy_is_refused SEALED_FILE_CHANGED "nvram" ask RestoreCheckpoint "checkpoint_id:'$one'"
	equal A16_changed_copy_disables "$(enabled "$one")" false
	remove "$dir" "$safety" >/dev/null
	remove "$dir" "$one" >/dev/null
	check A16_nothing_is_left [ -z "$(find "$dir/images" -name 'a16-01*.nvram*')" ]
	on "$dir" undefine "$vm" --keep-nvram >/dev/null
	rm -f "$dir"/images/a16-01*
}

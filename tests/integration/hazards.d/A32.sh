# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# firmware='efi': 9.0's inactive definition names no <nvram>. The file is found all the same, or it is refused
A32() {
	local one store copy
	uefi a32-01 "s|<os>|<os firmware='efi'>|;s|<type arch.*|&<firmware><feature enabled='no' name='secure-boot'/></firmware>|"
	beside "inactive definition: $(on "$dir" dumpxml --inactive "$vm" | grep -c '<nvram') <nvram>"
	if [ "$(on "$dir" dumpxml --inactive "$vm" | grep -c '<nvram')" = 0 ]; then
		refused A32_unknown_store_is_refused NVRAM_UNSUPPORTED "start the VM once" ask CreateCheckpoint "vm_id:'$id'"
	fi
	up
	store=$(seen_by "$dir" "$(on "$dir" dumpxml "$vm" | xpath 'string(//nvram)')")
	guest mark "$dir" "$vm" one
	one=$(create "$dir" "$id")
	copy=$(nvram_of "$one")
	equal A32_found_in_the_live_definition "$(sum "$copy")" "$(sum "$store")"
	guest poweroff "$dir" "$vm"
	printf other >"$store"
	restore "$dir" "$one" "power_state:RESTORE_POWER_STATE_SHUT_OFF" >/dev/null
	equal A32_found_by_convention_and_restored "$(sum "$store")" "$(sum "$copy")"
	up
	equal A32_the_restored_guest_boots "$(guest cat "$dir" "$vm" /mnt/a/mark)" one
	whole A32_oracle
	guest stop "$dir" "$vm"
	on "$dir" undefine "$vm" --nvram >/dev/null 2>&1 || on "$dir" undefine "$vm" --keep-nvram >/dev/null
}

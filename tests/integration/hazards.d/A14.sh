# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# AppArmor denies a running VM to write to what lay below its top when it started, so that a commit into it fails
A14() {
	local model units=$VMCKPT_BUILD/tests/unit
	model=$(on "$dir" capabilities | xpath 'string(//host/secmodel/model[.="apparmor"])')
	if [ "$model" != apparmor ]; then
		skip A14_delete_in_a_confined_vm "no AppArmor on this machine (libvirt's security model: $(on "$dir" capabilities | xpath 'string(//host/secmodel[1]/model)')); covered by test_confinement (what a profile denies) and by test_planner_merge (such a delete is refused), which are run here"
	fi
	# The profile's own words, and what the planner makes of them: refused by name before anything changes, and
	# done once the VM is off.
	check A14_the_profile_is_read "$units/test_confinement"
	check A14_such_a_delete_is_refused grep -qE '^ok [0-9]+ - delete_that_apparmor_would_deny_is_refused$' <<<"$(CMOCKA_MESSAGE_OUTPUT=TAP "$units/test_planner_merge" 2>/dev/null)"
	[ "$model" = apparmor ] || return 0

	local one
	make_guest a14-01
	one=$(create "$dir" "$id")
	create "$dir" "$id" >/dev/null
	guest start "$dir" "$vm"
	refused A14_refused_by_name SHUT_DOWN_REQUIRED "AppArmor" remove "$dir" "$one"
	whole A14_nothing_is_half_done
	on "$dir" destroy "$vm" >/dev/null
	check A14_done_when_off remove "$dir" "$one"
}

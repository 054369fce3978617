# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# Passwords in the definition
A30() {
	local one text
	make_guest a30-01
	on "$dir" dumpxml --inactive "$vm" |
		sed "s|</devices>|<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1' passwd='geheim30'/></devices>|" >"$dir/a30.xml"
	on "$dir" define "$dir/a30.xml" >/dev/null
	on "$dir" autostart "$vm" >/dev/null
	one=$(create "$dir" "$id")
	on "$dir" dumpxml --inactive --security-info "$vm" | sed 's/geheim30/anders30/' >"$dir/a30-other.xml"
	on "$dir" define "$dir/a30-other.xml" >/dev/null
	on "$dir" autostart --disable "$vm" >/dev/null
	local safety
	safety=$(restore "$dir" "$one")
	equal A30_password_restored "$(on "$dir" dumpxml --inactive --security-info "$vm" | xpath 'string(//graphics/@passwd)')" geheim30
	equal A30_autostart_restored "$(on "$dir" dominfo "$vm" | awk '/^Autostart/ {print $2}')" enable
	restore "$dir" "$safety" >/dev/null
	equal A30_password_of_the_undo "$(on "$dir" dumpxml --inactive --security-info "$vm" | xpath 'string(//graphics/@passwd)')" anders30
	equal A30_autostart_of_the_undo "$(on "$dir" dominfo "$vm" | awk '/^Autostart/ {print $2}')" disable
	text=$(
		agent call "$dir" GetCheckpoint "checkpoint_id:'$one' view:CHECKPOINT_VIEW_FULL"
		agent call "$dir" ListCheckpoints "view:CHECKPOINT_VIEW_FULL"
		agent call "$dir" GetVirtualMachine "vm_id:'$id'"
		agent call "$dir" ListOperations ""
		agent call "$dir" RestoreCheckpoint "options{request_id:'$(new_id)' validate_only:true} checkpoint_id:'$one'"
		agent call "$dir" DeleteCheckpoint "options{request_id:'$(new_id)' validate_only:true} checkpoint_id:'$safety'"
		agent log "$dir"
	)
	check A30_there_was_something_to_search [ ${#text} -gt 1000 ]
	equal A30_never_in_replies_nor_the_log "$(grep -c 'heim30\|ders30' <<<"$text")" 0
	equal A30_files_that_hold_it_are_0600 "$(grep -rlE 'heim30|ders30' "$dir/agent" "$dir/images" | xargs stat -c %a | sort -u)" 600
	on "$dir" dumpxml --inactive "$vm" >"$dir/a30-virsh.xml"
	on "$dir" define "$dir/a30-virsh.xml" >/dev/null
	beside "virsh dumpxml, then define: password \"$(on "$dir" dumpxml --inactive --security-info "$vm" | xpath 'string(//graphics/@passwd)')\""
}

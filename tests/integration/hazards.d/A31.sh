# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# A transient VM vanishes when it stops: refused by name, and unharmed
A31() {
	local state
	make_guest a31-01
	on "$dir" dumpxml --inactive a31-01 >"$dir/a31.xml"
	on "$dir" undefine a31-01 >/dev/null
	on "$dir" create "$dir/a31.xml" >/dev/null
	id=$(vm_id "$dir" a31-01)
	state=$(find "$dir/images" -name 'a31-01*' -printf '%p %m\n'; on "$dir" dumpxml a31-01 | sha256sum)
	refused A31_create_is_refused_by_name TRANSIENT_VM "virsh define" ask CreateCheckpoint "vm_id:'$id'"
	equal A31_nothing_changed "$(find "$dir/images" -name 'a31-01*' -printf '%p %m\n'; on "$dir" dumpxml a31-01 | sha256sum)" "$state"
	# Made persistent, as the message says, it can be.
	on "$dir" define "$dir/a31.xml" >/dev/null
	check A31_accepted_once_persistent create "$dir" "$id"
}

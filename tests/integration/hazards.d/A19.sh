# shellcheck shell=bash disable=SC2154,SC2317  # variables of "hazards"; functions called by name
# The VM leaves for another host, its files stay where both can reach them: the source must touch them no more.
# (Running guests, kills and the way back: tests/run migrate.)
A19() {
	local other=$base/moved one two before leftover
	[ -d "$other" ] || host moved
	make_guest a19-01 --no-agent
	one=$(create "$dir" "$id")
	two=$(create "$dir" "$id")
	leftover=$(top_of "$dir" "$vm" vda)
	on "$dir" dumpxml --inactive "$vm" >"$dir/a19.xml"
	on "$dir" undefine "$vm"
	on "$other" define "$dir/a19.xml" >/dev/null
	A19_has() { [ "$("$support/agent" call "$1" ListCheckpoints "filter{vm_id:'$id'}" | jq '.checkpoints | length')" = "$2" ]; }
	check A19_the_new_host_adopts eventually 20 A19_has "$other" 2
	check A19_the_source_sees_it eventually 20 A19_has "$dir" 0
	before=$(find "$dir/images" -name 'a19*' -printf '%p %s %T@ %m\n' | sort)
	refused A19_the_source_deletes_nothing VM_MOVED "host" ask DeleteCheckpoint "checkpoint_id:'$one'"
	equal A19_no_file_was_touched "$(find "$dir/images" -name 'a19*' -printf '%p %s %T@ %m\n' | sort)" "$before"
	# It is defined here again, and there, too: who defined it last has them.
	on "$dir" define "$dir/a19.xml" >/dev/null
	check A19_defined_here_again_it_is_back eventually 20 A19_has "$dir" 2
	refused A19_and_the_other_refuses VM_MOVED "host" call "$other" CreateCheckpoint "options{request_id:'$(new_id)'} vm_id:'$id'"
	check A19_deleted_here remove "$dir" "$two"
	check A19_to_the_last remove "$dir" "$one"
	check A19_the_overlay_is_gone [ ! -e "$leftover" ]
	on "$other" undefine "$vm"
}

# shellcheck shell=bash disable=SC2154,SC2317  # variables of "hazards"; functions called by name
# A VM is undefined while it has checkpoints: they are listed as orphans, and nothing but a delete removes files
A20() {
	local one two newest before
	make_guest a20-01 --no-agent
	one=$(create "$dir" "$id")
	two=$(create "$dir" "$id")
	newest=$(top_of "$dir" "$vm" vda)
	on "$dir" dumpxml --inactive "$vm" >"$dir/a20.xml"
	on "$dir" undefine "$vm"
	A20_orphan() {
		call "$dir" ListCheckpoints "filter{vm_id:'$id'}"
		[ "$(got '[.checkpoints[] | select(.disabledReason | test("not defined on this host"))] | length')" = 2 ]
	}
	check A20_listed_as_orphans eventually 20 A20_orphan
	before=$(find "$dir/images" -name 'a20*' -printf '%p %s\n' | sort)
	agent kill "$dir" a
	agent start "$dir" a
	equal A20_no_file_goes "$(find "$dir/images" -name 'a20*' -printf '%p %s\n' | sort)" "$before"
	refused A20_not_restored VM_NOT_FOUND "$id" ask RestoreCheckpoint "checkpoint_id:'$two'"
	check A20_deleted_on_request remove "$dir" "$one"
	check A20_the_newest_state_stays [ -e "$newest" ]
	# The last one: what the newest overlay holds is in the file below, which is said.
	remove "$dir" "$two" && pass A20_deleted_to_the_last
	check A20_says_where_the_newest_state_is grep -q "a20-01-vda.qcow2" <<<"$(got '.warnings | join(" ")')"
	check A20_that_is_whole qemu-img check -q "$dir/images/a20-01-vda.qcow2"
	equal A20_no_overlay_is_left "$(find "$dir/images" -name 'a20-01-vda.ckpt*' | wc -l)" 0
	equal A20_no_manifest_is_left "$(find "$dir/images" -name 'a20*.vmckpt.json' | wc -l)" 0
}

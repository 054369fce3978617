# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# A line of more than about 25 layers: on some libvirts the VM no longer starts
A15() {
	local last='' warned='' started=$EPOCHREALTIME made=0
	make_guest a15-01
	while [ $made -lt 20 ]; do
		call "$dir" CreateCheckpoint "options{request_id:'$(new_id)'} vm_id:'$id'" >/dev/null || break
		last=$(got .checkpoint.checkpointId)
		made=$((made + 1))
		[ "$(got '.warnings // [] | map(select(test("20"))) | length')" = 0 ] || warned="$warned $made"
	done
	equal A15_twenty_are_made $made 20
	equal A15_warned_from_the_fifteenth_on "$warned" " 15 16 17 18 19 20"
	echo "     twenty checkpoints of a VM that is off: $(seconds_since "$started") s"
	refused A15_the_next_is_refused DEPTH_LIMIT "20" ask CreateCheckpoint "vm_id:'$id'"
	refused A15_nor_can_a_restore_keep_the_present_state DEPTH_LIMIT "safety" ask RestoreCheckpoint "checkpoint_id:'$last'"
	guest start "$dir" "$vm"
	check A15_the_deepest_still_boots guest wait-line "$dir" "$vm" '^boot '
	whole A15_oracle
	guest stop "$dir" "$vm"
	remove "$dir" "$last" >/dev/null
	create "$dir" "$id" >/dev/null && pass A15_there_is_room_again
}

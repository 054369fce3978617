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
	throw_away
	A15_by_virsh
}

A15_by_virsh() {
	# shellcheck source=tests/integration/blank.sh
	. "$integration/blank.sh"
	local made=0 said='' started=$EPOCHREALTIME
	make_blank a15-02 1
	write_all 15
	while [ $made -lt 30 ] && said=$(by_virsh "layer-$made" 2>&1); do made=$((made + 1)); done
	said="$made of 30 are made in $(seconds_since "$started") s${said:+ ($said)}"
	if on "$dir" start "$vm" >"$dir/a15-start" 2>&1; then
		said+="; it starts"
	else
		said+="; it does not start: $(xargs <"$dir/a15-start")"
	fi
	beside "virsh snapshot-create-as, again and again: $said; through all of them the disk reads $(reads "$(top_of "$dir" "$vm" vda)"), 15 was written"
	throw_away
}

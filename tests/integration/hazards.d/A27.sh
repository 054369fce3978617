# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# A file is merged while several branches lie on it: all of them are put on the merged one first

# What lies in the folder of the disk, without this row's other files.
a27_files() { find "$dir/images" -name 'a27-01-vda*.qcow2' -printf '%f\n' | sort; }

a27_path() { call "$dir" GetCheckpoint "checkpoint_id:'$1'" >/dev/null && got '.checkpoint.disks[0].sealedFile'; }

A27() {
	local one two safety four six from bottom overlay
	make_guest a27-01
	up
	bottom=$dir/images/a27-01-vda.qcow2
	guest mark "$dir" "$vm" one
	one=$(create "$dir" "$id")
	guest mark "$dir" "$vm" two
	two=$(create "$dir" "$id")
	overlay=$(find "$dir/images" -name "a27-01-vda.ckpt-${one%%-*}.qcow2")
	guest mark "$dir" "$vm" three
	from=$(guest console-size "$dir" "$vm")
	safety=$(restore "$dir" "$two")
	guest wait-line "$dir" "$vm" --from "$from" '^boot [0-9]+ vda=two ' >/dev/null
	guest wait-agent "$dir" "$vm"
	guest mark "$dir" "$vm" four

	# The VM runs: a live merge, and the safety checkpoint's file is rebased.
	call "$dir" DeleteCheckpoint "options{request_id:'$(new_id)' validate_only:true} checkpoint_id:'$one'" >/dev/null
	check A27_the_plan_says_so grep -q "rebase .*ckpt-${two%%-*}.* from $overlay to $bottom" <<<"$reply"
	check A27_deleted_while_it_runs remove "$dir" "$one"
	equal A27_nothing_was_left_undone "$(got '.warnings // [] | length')" 0
	check A27_merged_file_is_gone [ ! -e "$overlay" ]
	equal A27_below_the_branches "$(contents_of "$dir" "$two")" two
	equal A27_on_the_other_branch "$(contents_of "$dir" "$safety")" three
	equal A27_in_the_running_guest "$(guest cat "$dir" "$vm" /mnt/a/mark)" four
	whole A27_oracle_while_it_runs

	# The VM is off, and a checkpoint is the branch point: base(two) <- four <- {six, the present state}.
	four=$(create "$dir" "$id")
	guest mark "$dir" "$vm" six
	guest poweroff "$dir" "$vm"
	six=$(restore "$dir" "$four" "power_state:RESTORE_POWER_STATE_SHUT_OFF")
	remove "$dir" "$safety" >/dev/null
	check A27_deleted_while_it_is_off remove "$dir" "$two"
	equal A27_off_nothing_was_left_undone "$(got '.warnings // [] | length')" 0
	equal A27_off_files "$(a27_files | wc -l)" 3
	equal A27_off_at_the_branch_point "$(contents_of "$dir" "$four")" four
	equal A27_off_on_the_other_branch "$(contents_of "$dir" "$six")" six
	equal A27_off_it_lies_on_the_first_file "$(qemu-img info --output=json "$(a27_path "$six")" | jq -r '."backing-filename"')" "$bottom"
	whole A27_oracle_while_it_is_off "shut off"
	guest start "$dir" "$vm"
	check A27_it_boots_on_its_branch guest wait-line "$dir" "$vm" '^boot [0-9]+ vda=four '
	from=$(guest console-size "$dir" "$vm")
	guest wait-agent "$dir" "$vm"
	restore "$dir" "$six" "discard_present_state:true power_state:RESTORE_POWER_STATE_RUNNING" >/dev/null
	check A27_and_on_the_other guest wait-line "$dir" "$vm" --from "$from" '^boot [0-9]+ vda=six '

	# All of them deleted: one file, by its first name.
	remove "$dir" "$six" >/dev/null
	remove "$dir" "$four" >/dev/null
	equal A27_one_file_again "$(a27_files)" a27-01-vda.qcow2
	equal A27_by_its_first_name "$(top_of "$dir" "$vm" vda)" "$bottom"
	throw_away
	A27_by_virsh
}

# The same with virsh: another branch lies on the file that is merged, and removed as it is wanted to be.
A27_by_virsh() {
	# shellcheck source=tests/integration/blank.sh
	. "$integration/blank.sh"
	local below over sibling=$dir/images/a27-02-branch.qcow2 before status=0
	make_blank a27-02 1
	write_all 1
	run_again
	below=$(top_of "$dir" "$vm" vda)
	by_virsh one --no-metadata
	over=$(top_of "$dir" "$vm" vda)
	write_all 2
	by_virsh two --no-metadata
	overlay "$sibling" "$over" qcow2
	before=$(reads "$sibling")
	write_all 3
	on "$dir" blockcommit "$vm" vda --base "$below" --top "$over" --delete --wait >/dev/null 2>&1 || status=$?
	beside "virsh blockcommit --delete of a file on which another branch lies: status $status; that branch read $before before, and $(reads "$sibling") afterwards"
	throw_away
}

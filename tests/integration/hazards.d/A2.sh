# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# Delete at a branch point: one branch would be merged into the file under the other
A2() {
	local one two safety bottom from images=$dir/images
	make_guest a2-01
	up
	bottom=$images/a2-01-vda.qcow2
	guest mark "$dir" "$vm" one
	one=$(create "$dir" "$id")
	guest mark "$dir" "$vm" two
	two=$(create "$dir" "$id")
	guest mark "$dir" "$vm" three
	from=$(guest console-size "$dir" "$vm")
	safety=$(restore "$dir" "$one")
	guest wait-line "$dir" "$vm" --from "$from" '^boot [0-9]+ vda=one ' >/dev/null
	guest wait-agent "$dir" "$vm"
	guest mark "$dir" "$vm" four

	# What a merge by hand would do, on copies: the branch into the file under the other one.
	qemu-img create -q -f qcow2 "$dir/a2-base" 1M
	overlay "$dir/a2-left" "$dir/a2-base" qcow2
	overlay "$dir/a2-right" "$dir/a2-base" qcow2
	qemu-io -f qcow2 -c "write -q -P 1 0 64k" "$dir/a2-left"
	qemu-img commit -q -f qcow2 "$dir/a2-left"
	beside "qemu-img commit of one branch: the other, which had zeros, now reads $(qemu-io -r -f qcow2 -c "read -v 0 16" "$dir/a2-right" | head -n 1)"

	refused A2_refused_with_its_branches BRANCH_POINT "checkpoint $(name_of "$two") ($two)" ask DeleteCheckpoint "checkpoint_id:'$one'"
	refused A2_and_the_present_state BRANCH_POINT "the present state" ask DeleteCheckpoint "checkpoint_id:'$one'"

	# when_possible: hidden, with all its files, until one branch is left.
	remove "$dir" "$one" "when_possible:true" >/dev/null && pass A2_accepted_when_possible
	equal A2_state_is_deleting "$(got .checkpoint.state)" CHECKPOINT_STATE_DELETING
	check A2_the_reply_lists_the_branches grep -q "($two), the present state\|the present state, .*($two)" <<<"$(got '.warnings[0]')"
	call "$dir" ListCheckpoints "filter{vm_id:'$id'}" >/dev/null
	equal A2_hidden "$(got '[.checkpoints[].checkpointId] | sort | join(" ")')" "$(printf '%s\n' "$two" "$safety" | sort | paste -sd ' ')"
	call "$dir" ListCheckpoints "filter{vm_id:'$id' include_deleting:true}" >/dev/null
	equal A2_shown_on_request "$(got ".checkpoints[] | select(.checkpointId == \"$one\") | .enabled")" false
	refused A2_not_restored CHECKPOINT_DELETING "one branch" ask RestoreCheckpoint "checkpoint_id:'$one'"
	refused A2_still_refused_without BRANCH_POINT "($two)" ask DeleteCheckpoint "checkpoint_id:'$one'"
	equal A2_its_contents_carry_the_branches "$(disk_file "$bottom" qcow2 /mark)" one

	# It does not hold up anything else, and finishes when the other branch goes, all by itself.
	equal A2_other_branch "$(contents_of "$dir" "$two") $(contents_of "$dir" "$safety")" "two three"
	remove "$dir" "$safety" >/dev/null
	check A2_still_there_while_there_are_two [ -n "$(a2_listed "$one")" ]
	remove "$dir" "$two" >/dev/null
	check A2_finished_by_itself eventually 20 eval '[ -z "$(a2_listed "$one")" ]'
	equal A2_one_file_again "$(find "$images" -name 'a2-01-vda*.qcow2' -printf '%f\n')" a2-01-vda.qcow2
	equal A2_by_its_first_name "$(top_of "$dir" "$vm" vda)" "$bottom"
	equal A2_the_present_state_is_what_it_was "$(guest cat "$dir" "$vm" /mnt/a/mark)" four
	VMCKPT_AS="admin" call "$dir" ListOperations "filter{vm_id:'$id'}" >/dev/null || true
	equal A2_the_agent_did_it "$(got '[.operations[] | select(.identity == "vmcheckpointd") | .state] | join(" ")')" OPERATION_STATE_SUCCEEDED
	whole A2_oracle
}

name_of() { call "$dir" GetCheckpoint "checkpoint_id:'$1'" >/dev/null && got .checkpoint.checkpointName; }

# a2_listed CHECKPOINT: itself, if the agent still has it.
a2_listed() {
	call "$dir" ListCheckpoints "filter{vm_id:'$id' include_deleting:true}" >/dev/null
	got ".checkpoints[]? | select(.checkpointId == \"$1\") | .checkpointId"
}

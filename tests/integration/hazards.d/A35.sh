# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# After a restore libvirt refuses incremental backups: it is said beforehand, and there is never a wrong one.
# a23_write and others are A23's.

# a35_next NAME SINCE...: an incremental backup since the last of these: right, or refused by libvirt.
a35_next() {
	if a23_backup "$1" "${*: -1}"; then
		check "A35_no_wrong_incremental_$1" a23_right "${@:2}" "$1"
	else
		pass "A35_no_wrong_incremental_$1"
		beside "virsh backup-begin, incremental, $1: $(tail -n 1 "$dir/backup.err" | cut -c 1-90)"
	fi
}

A35() {
	local one safety
	make_guest a35-01 --no-agent --memory 64
	on "$dir" start --paused "$vm" >/dev/null
	a23_write 1 0
	a23_backup full
	one=$(create "$dir" "$id")
	a23_write 2 1M
	call "$dir" RestoreCheckpoint "options{request_id:'$(new_id)' validate_only:true} checkpoint_id:'$one'" >/dev/null
	check A35_said_beforehand grep -q "full backup" <<<"$(got '.warnings[]')"
	ask RestoreCheckpoint "checkpoint_id:'$one'" || fail A35_restored "$reply"
	check A35_said_in_the_reply grep -q "full backup" <<<"$(got '.warnings[]')"
	safety=$(got .safetyCheckpoint.checkpointId)
	a23_write 3 2M
	a35_next after_a_restore full
	remove "$dir" "$safety"
	remove "$dir" "$one"
	a23_write 4 3M
	a35_next after_a_merge full
	check A35_a_full_one_goes_on eval 'a23_backup full2 && a23_right full2'
	a23_write 5 4M
	check A35_and_incremental_ones_since eval 'a23_backup i5 full2 && a23_right full2 i5'
	rm -f "$dir"/bk-*.qcow2
}

# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# A memory image and no space: libvirt truncates what was reserved for it. small_folder and others are A8's.

A33() {
	local dir=$base/a33 small before point request
	host a33
	small_folder 400
	small_guest a33-01 qcow2
	guest start "$dir" "$vm"
	guest wait-line "$dir" "$vm" '^resume ' >/dev/null
	# The guest's own blocks are allocated by now: it goes on while nothing is free.
	guest wait-tick "$dir" "$vm" 20 >/dev/null
	fill $((150 * 1024))
	before=$(world "$dir")
	refused A33_space_is_looked_for_beforehand SPACE_LOW "memory image" ask CreateCheckpoint "vm_id:'$id' $MEMORY"
	unchanged A33_nothing_changed "$dir" "$before"
	rm -f "$small/hog"
	# When its SNAPSHOT, the fourth step, has begun: 20 MiB above the reserve, for an image of 90.
	begin_create 11
	fill $((84 * 1024))
	go_on
	eventually 30 ended || true
	equal A33_space_is_watched "$(operation '.operation | [.state, .error.reason] | join(" ")')" "OPERATION_STATE_FAILED ERROR_REASON_SPACE_LOW"
	rm -f "$small/hog"
	equal A33_no_file "$(find "$small" -name '*.memory' | wc -l)" 0
	as_before A33
	point=$(create "$dir" "$id" "$MEMORY")
	equal A33_mode "$(stat -c %a "$(file_of "$point")")" 600
	guest stop "$dir" "$vm"
	agent stop "$dir" a33
	hypervisor stop a33 "$dir"
	! mountpoint -q "$small" || umount -l "$small"
}

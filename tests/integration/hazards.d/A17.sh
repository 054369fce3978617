# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# A disk was detached since the checkpoint: libvirtd crashes when its snapshot is deleted
A17() {
	local one two safety pid kept
	# All but that the oracle cannot know whose the detached disk's newest file is.
	whole_beside_it() { # NAME
		equal "$1" "$(oracle "$dir" "$vm" "shut off" | grep -vF "nobody owns $kept")" ""
	}
	make_guest a17-01 --disks 2
	guest start "$dir" "$vm"
	one=$(create "$dir" "$id")
	two=$(create "$dir" "$id")
	kept=$(top_of "$dir" "$vm" vdb)
	on "$dir" destroy "$vm" >/dev/null
	on "$dir" detach-disk "$vm" vdb --config >/dev/null
	pid=$(cat "$dir/libvirtd.pid")

	# The disk's newest file is somebody's only copy, and lies on the checkpoints' files.
	remove "$dir" "$one" && pass A17_delete_of_the_older_is_done
	check A17_newest_file_of_the_detached_disk_is_kept [ -s "$kept" ]
	equal A17_libvirtd_lives "$(cat "$dir/libvirtd.pid") $(kill -0 "$pid" && echo yes)" "$pid yes"
	whole_beside_it A17_oracle
	safety=$(restore "$dir" "$two")
	equal A17_restore_brings_the_disk_back "$(on "$dir" domblklist "$vm" | awk '$1 ~ /^vd/ {print $1}' | xargs)" "vda vdb"
	check A17_newest_file_is_kept_then_too [ -s "$kept" ]
	restore "$dir" "$safety" >/dev/null
	equal A17_and_the_safety_checkpoint_is_without_it "$(on "$dir" domblklist "$vm" | awk '$1 ~ /^vd/ {print $1}' | xargs)" "vda"
	equal A17_libvirtd_lives_still "$(cat "$dir/libvirtd.pid") $(kill -0 "$pid" && echo yes)" "$pid yes"
	whole_beside_it A17_oracle_at_the_end

	# With libvirt's own snapshots, on a hypervisor of its own.
	hypervisor start b "$base/b" >/dev/null
	guest make "$base/b" a17-02 --disks 2 --no-agent
	on "$base/b" start a17-02 >/dev/null
	on "$base/b" snapshot-create-as a17-02 by-virsh --disk-only >/dev/null
	on "$base/b" detach-disk a17-02 vdb --live --config >/dev/null 2>&1 || true
	on "$base/b" destroy a17-02 >/dev/null
	on "$base/b" detach-disk a17-02 vdb --config >/dev/null 2>&1 || true
	pid=$(cat "$base/b/libvirtd.pid")
	on "$base/b" snapshot-delete a17-02 by-virsh >/dev/null 2>"$base/b/said" || true
	sleep 0.5
	beside "virsh snapshot-delete after a disk was detached: libvirtd $(if kill -0 "$pid" 2>/dev/null; then echo lives; else echo is dead; fi); $(tail -n 1 "$base/b/said")"
}

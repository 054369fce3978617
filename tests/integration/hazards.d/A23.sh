# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# Bitmaps of backup tools: kept by create and delete, said beforehand, and never a wrong incremental backup
a23_io() { on "$dir" qemu-monitor-command "$vm" --hmp "qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend \"$1\"" >/dev/null; }
a23_write() { a23_io "write -P $1 $2 64k"; a23_io flush; }

# a23_backup NAME [SINCE]: a push backup to bk-NAME, incremental since the checkpoint of that name.
a23_backup() {
	printf "<domainbackup>%s<disks><disk name='vda' backup='yes' type='file'><target file='%s'/><driver type='qcow2'/></disk></disks></domainbackup>" \
		"${2:+<incremental>$2</incremental>}" "$dir/bk-$1.qcow2" >"$dir/backup.xml"
	echo "<domaincheckpoint><name>$1</name></domaincheckpoint>" >"$dir/point.xml"
	on "$dir" backup-begin "$vm" "$dir/backup.xml" "$dir/point.xml" >/dev/null 2>"$dir/backup.err" || return 1
	eventually 20 eval '[ "$(on "$dir" domjobinfo "$vm" | grep -c "Job type: *None")" = 1 ]'
}

# a23_right NAME...: the backups one upon the other are the disk as it is.
a23_right() {
	local name before=''
	for name; do
		[ -z "$before" ] || qemu-img rebase -u -f qcow2 -F qcow2 -b "$dir/bk-$before.qcow2" "$dir/bk-$name.qcow2"
		before=$name
	done
	qemu-img compare -q -U "$dir/bk-$before.qcow2" "$(top_of "$dir" "$vm" vda)"
}

A23() {
	local one before
	make_guest a23-01 --no-agent --memory 64
	on "$dir" start --paused "$vm" >/dev/null
	a23_write 1 0
	a23_backup full
	a23_write 2 1M

	call "$dir" CreateCheckpoint "options{request_id:'$(new_id)' validate_only:true} vm_id:'$id'" >/dev/null
	check A23_said_beforehand grep -q "1 libvirt checkpoints" <<<"$(got '.warnings[]')"
	one=$(create "$dir" "$id")
	a23_write 3 2M
	check A23_incremental_after_a_create eval 'a23_backup i1 full && a23_right full i1'
	a23_write 4 3M
	remove "$dir" "$one"
	a23_write 5 4M
	check A23_incremental_after_a_delete eval 'a23_backup i2 i1 && a23_right full i1 i2'
	one=$(create "$dir" "$id")
	a23_write 6 5M
	on "$dir" destroy "$vm" >/dev/null
	before=$(world "$dir")
	refused A23_create_refused_while_off LIBVIRT_CHECKPOINT_PRESENT "virsh checkpoint-delete" ask CreateCheckpoint "vm_id:'$id'"
	unchanged A23_nothing_changed "$dir" "$before"
	remove "$dir" "$one"
	on "$dir" start --paused "$vm" >/dev/null
	a23_write 7 6M
	check A23_incremental_after_an_offline_delete eval 'a23_backup i3 i2 && a23_right full i1 i2 i3'
	rm -f "$dir"/bk-*.qcow2
}

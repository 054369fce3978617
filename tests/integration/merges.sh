# shellcheck shell=bash disable=SC2154,SC2034
# What groups about merges share: deletes in the background, and looking into their midst. A host with
# "--limit merge_mib_per_second=4" has merges slow enough to be met there.

# begin_delete CHECKPOINT: sets $request; returns while it runs.
begin_delete() {
	request=$(new_id)
	call "$dir" DeleteCheckpoint "options{request_id:'$request' return_when:RETURN_WHEN_ACCEPTED} checkpoint_id:'$1'" >/dev/null
}
operation() { call "$dir" GetOperation "request_id:'$request'" >/dev/null && got "$1"; }
moves_data() { [ "$(operation '.operation.bytesDone // "0"')" -gt "${1:-0}" ]; }
ended() { [ "$(operation .operation.state)" != OPERATION_STATE_RUNNING ]; }
merging() { eventually 20 moves_data "${1:-0}"; }

state() { call "$dir" GetCheckpoint "checkpoint_id:'$1'" >/dev/null && got .checkpoint.state; }
gone() { ! call "$dir" GetCheckpoint "checkpoint_id:'$1'" >/dev/null && [ "$(got .reason)" = CHECKPOINT_NOT_FOUND ]; }
# Calls that have no running VM of the hypervisor may yet have its old process to wait for.
qemu_pid() { pgrep -f -- "-name guest=$vm,.*$dir/"; } # others have VMs of that name

# big FOLDER: 12 MiB of new contents in the guest; prints their sum.
big() {
	guest exec "$dir" "$vm" sh -c "dd if=/dev/urandom of=$1/big bs=1M count=12 2>/dev/null && sync"
	guest sha256 "$dir" "$vm" "$1/big"
}
big_on() { # TARGET: as it lies on the disk, QEMU or not
	local file format
	file=$(top_of "$dir" "$vm" "$1")
	format=$(on "$dir" dumpxml --inactive "$vm" | xpath "string(//disk[target/@dev='$1']/driver/@type)")
	disk_file "$file" "$format" /big | sha256sum | cut -d ' ' -f 1
}

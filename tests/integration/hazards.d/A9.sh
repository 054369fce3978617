# shellcheck shell=bash disable=SC2154,SC2034  # variables of "hazards"
# QEMU, libvirtd or the agent killed in mid-commit: the base is part-overwritten
# shellcheck source=tests/integration/merges.sh
. "$integration/merges.sh"

# Shut off, the top bigger than the sealed file below it: that is pulled up instead. Contents are what qemu-io
# writes, in a VM that was never on.
# lose_count FILE: a cluster more, that is counted and belongs to nothing: what a kill between QEMU's two writes leaves.
lose_count() {
	local number table block
	number=$((($(stat -c %s "$1") + 65535) / 65536))
	table=$(od -A n -t u8 --endian=big -j 48 -N 8 "$1")
	block=$(od -A n -t u8 --endian=big -j "$((table))" -N 8 "$1")
	truncate -s $(((number + 1) * 65536)) "$1"
	printf '\0\1' | dd of="$1" bs=1 seek=$((block + 2 * number)) conv=notrunc 2>/dev/null
}
A9_pull() {
	local top sealed below below_before two request grown
	backing() { qemu-img info --output=json "$1" | jq -r '."full-backing-filename"'; }
	make_guest a9-03
	create "$dir" "$id" >/dev/null
	sealed=$(top_of "$dir" "$vm" vda)
	below=$(backing "$sealed")
	hypervisor run "$dir" qemu-io -f qcow2 -c 'write -q -P 0x11 8M 16M' -c 'write -q -z 4M 2M' "$sealed"
	two=$(create "$dir" "$id")
	top=$(top_of "$dir" "$vm" vda)
	hypervisor run "$dir" qemu-io -f qcow2 -c 'write -q -P 0x22 23M 36M' "$top"
	hypervisor run "$dir" qemu-img convert -f qcow2 -O raw "$top" "$dir/before.raw"
	below_before=$(stat -c '%s %y %a' "$below"; sha256sum <"$below")
	grown=$(du -k "$top" | cut -f 1)
	call "$dir" DeleteCheckpoint "options{request_id:'$(new_id)' validate_only:true} checkpoint_id:'$two'" >/dev/null
	equal A9_pull_is_planned "$(got '[.plan[].name] | join(" ")')" \
		'reserve catalogue pull check-chain catalogue remove-manifest remove-file'

	begin_delete "$two"
	check A9_pull_agent_killed_in_the_midst merging 1
	agent kill "$dir" c
	equal A9_pull_contents_in_the_midst "$(backing "$top") $(qemu-img compare -q -f qcow2 -F raw "$top" "$dir/before.raw" && echo same)" "$sealed same"
	lose_count "$top"
	equal A9_pull_a_cluster_belongs_to_nothing "$(qemu-img check -q -f qcow2 "$top" >/dev/null 2>&1; echo $?)" 3
	agent start "$dir" c
	check A9_pull_agent_finishes_by_itself eventually 30 gone "$two"
	whole A9_pull_oracle "shut off"
	check A9_pull_sealed_file_is_gone [ ! -e "$sealed" ]
	equal A9_pull_the_top_stays_and_lies_lower "$(top_of "$dir" "$vm" vda) $(backing "$top")" "$top $below"
	equal A9_pull_lower_file_untouched "$(stat -c '%s %y %a' "$below"; sha256sum <"$below")" "$below_before"
	check A9_pull_contents qemu-img compare -q -f qcow2 -F raw "$top" "$dir/before.raw"
	check A9_pull_image_is_clean qemu-img check -q -f qcow2 "$top"
	# 15 of the 16 MiB that the sealed file held lay bare; the top's 36 were not moved.
	grown=$(($(du -k "$top" | cut -f 1) - grown))
	check A9_pull_moved_what_was_needed [ "$grown" -ge 15360 -a "$grown" -lt 18432 ]
}

A9() {
	local dir=$base/c one sum tick request
	host c --limit merge_mib_per_second=4
	A9_pull
	make_guest a9-01
	up

	one=$(create "$dir" "$id")
	sum=$(big /mnt/a)
	begin_delete "$one"
	check A9_agent_killed_in_the_midst merging 1000000
	agent kill "$dir" c
	agent start "$dir" c
	check A9_agent_finishes_by_itself eventually 30 gone "$one"
	equal A9_agent_contents "$(guest sha256 "$dir" "$vm" /mnt/a/big)" "$sum"
	whole A9_agent_oracle

	one=$(create "$dir" "$id")
	sum=$(big /mnt/a)
	tick=$(last_tick "$dir" "$vm")
	begin_delete "$one"
	merging 1000000
	hypervisor kill c "$dir"
	hypervisor start c "$dir" >/dev/null
	check A9_libvirtd_killed_and_finished eventually 40 gone "$one"
	check A9_libvirtd_guest_counted_on [ "$(guest wait-tick "$dir" "$vm")" -gt "$tick" ]
	equal A9_libvirtd_contents "$(guest sha256 "$dir" "$vm" /mnt/a/big)" "$sum"
	whole A9_libvirtd_oracle

	one=$(create "$dir" "$id")
	sum=$(big /mnt/a)
	begin_delete "$one"
	merging 1000000
	kill -9 "$(qemu_pid)"
	check A9_qemu_killed_the_delete_ends eventually 30 ended
	[ "$(operation .operation.state)" = OPERATION_STATE_SUCCEEDED ] || {
		equal A9_qemu_listed_as_deleting "$(state "$one")" CHECKPOINT_STATE_DELETING
		equal A9_qemu_contents_before "$(big_on vda)" "$sum"
		remove "$dir" "$one" || fail A9_qemu_repeated_delete "$reply"
	}
	check A9_qemu_finished gone "$one"
	equal A9_qemu_contents "$(big_on vda)" "$sum"
	whole A9_qemu_oracle "shut off"

	make_guest a9-02
	up
	local bottom=$dir/images/a9-02-vda.qcow2
	on "$dir" snapshot-create-as "$vm" by-virsh --disk-only --no-metadata >/dev/null
	sum=$(big /mnt/a)
	on "$dir" blockcommit "$vm" vda --active --bandwidth 4 >/dev/null
	sleep 1.5 # there is no other way to be in the midst of it
	kill -9 "$(qemu_pid)"
	beside "virsh blockcommit, QEMU killed: the base has $(qemu-img compare -q "$bottom" "$(top_of "$dir" "$vm" vda)" && echo "all" || echo "a part") of the newest data, and nothing says so"
	agent stop "$dir" c
	hypervisor stop c "$dir"
}

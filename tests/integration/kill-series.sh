# shellcheck shell=bash
# shellcheck disable=SC2317,SC2154,SC2034  # functions are called by name, from "series"
# The series of kill and kill-every: what each asks for, and what must be true afterwards.

# shellcheck source=tests/integration/kill.sh
. "$(dirname "${BASH_SOURCE[0]}")/kill.sh"
# shellcheck source=tests/integration/kill-blanks.sh
. "$(dirname "${BASH_SOURCE[0]}")/kill-blanks.sh"

guest_series="create_running delete_active restore_running delete_middle create_off delete_off delete_leaf"

# What kill-blanks.sh calls it.
each_point() {
	state=$3
	series "$1" "$2"
}
settled() { look "$state"; }

# ---- create, running, two disks ----

create_running() {
	before() {
		mark_all "before $n"
		last=$(last_tick "$dir" "$vm")
		count=$(checkpoints)
	}
	request() { echo "vm_id:'$id' checkpoint_name:'killed $n'"; }
	after() {
		local made
		made=$(got .checkpoint.checkpointId)
		goes_on "$last"
		look running
		same "checkpoints" "$(checkpoints)" $((count + 1))
		same "marks in the guest" "$(marks_in_guest)" "$(marks_wanted "before $n")"
		same "marks of the checkpoint" "$(marks_in_checkpoint "$made")" "$(marks_wanted "before $n")"
		remove "$dir" "$made" || wrong "it cannot be deleted"
	}
	series create_running CreateCheckpoint
	restored_and_counted
}

# At the end of a series: a checkpoint made and restored by an agent that was killed so often, with
# the contents verified by the guest.
restored_and_counted() {
	local point tick safety from
	mark_all "kept"
	tick=$(guest wait-tick "$dir" "$vm")
	point=$(create "$dir" "$id")
	mark_all "lost"
	from=$(guest console-size "$dir" "$vm")
	safety=$(restore "$dir" "$point")
	check "${series}_then_restored" guest wait-line "$dir" "$vm" --from "$from" \
		"^boot [0-9]+ vda=kept vdb=$([ "$disks" = 2 ] && echo kept || echo -) "
	check "${series}_then_counted_on" [ "$(guest wait-tick "$dir" "$vm" --from "$from" "$tick")" -gt "$tick" ]
	guest wait-agent "$dir" "$vm"
	remove "$dir" "$safety"
	remove "$dir" "$point"
	check "${series}_then_the_oracle" oracle "$dir" "$vm"
}

# ---- create, shut off ----

create_off() {
	before() { count=$(checkpoints); }
	request() { echo "vm_id:'$id' checkpoint_name:'killed $n'"; }
	after() {
		local made
		made=$(got .checkpoint.checkpointId)
		look "shut off"
		same "checkpoints" "$(checkpoints)" $((count + 1))
		same "marks of the checkpoint" "$(marks_in_checkpoint "$made")" "$(marks_wanted off)"
		same "marks of the present state" "$(marks_on_disks)" "$(marks_wanted off)"
		remove "$dir" "$made" || wrong "it cannot be deleted"
	}
	series create_off CreateCheckpoint
}

# ---- restore, running; to two checkpoints in turns, so that each changes the contents ----

restore_running() {
	local kept=() names=(left right) safety
	mark_all left
	kept[0]=$(create "$dir" "$id" "checkpoint_name:'left'")
	mark_all right
	kept[1]=$(create "$dir" "$id" "checkpoint_name:'right'")
	mark_all present
	was=present
	before() {
		count=$(checkpoints)
		from=$(guest console-size "$dir" "$vm")
	}
	request() { echo "checkpoint_id:'${kept[round % 2]}' power_state:RESTORE_POWER_STATE_RUNNING"; }
	after() {
		safety=$(got .safetyCheckpoint.checkpointId)
		look running
		same "checkpoints" "$(checkpoints)" $((count + 1))
		same "marks after the restore" "$(marks_on_disks)" "$(marks_wanted "${names[round % 2]}")"
		same "marks of the safety checkpoint" "$(marks_in_checkpoint "$safety")" "$(marks_wanted "$was")"
		was=${names[round % 2]}
		# In the guest too, but not each time: a boot takes longer than all the rest.
		if [ $((round % 12)) = 0 ]; then
			guest wait-line "$dir" "$vm" --from "$from" "^boot [0-9]+ vda=$was " >/dev/null ||
				wrong "the guest did not boot to $was"
		fi
		remove "$dir" "$safety" || wrong "the safety checkpoint cannot be deleted"
	}
	series restore_running RestoreCheckpoint
	guest wait-line "$dir" "$vm" --from "$from" "^boot [0-9]+ vda=$was " >/dev/null ||
		fail restore_running_boots "no boot to $was"
	guest wait-agent "$dir" "$vm"
	clear_all
}

# ---- delete of the checkpoint that the present state lies on ----

delete_active() {
	before() {
		mark_all "in $n"
		point=$(create "$dir" "$id")
		mark_all "over $n"
		last=$(last_tick "$dir" "$vm")
	}
	request() { echo "checkpoint_id:'$point'"; }
	after() {
		goes_on "$last"
		look running
		same "checkpoints" "$(checkpoints)" 0
		same "marks in the guest" "$(marks_in_guest)" "$(marks_wanted "over $n")"
	}
	series delete_active DeleteCheckpoint
	restored_and_counted
}

# ---- delete of one in the middle of a running VM's line ----

delete_middle() {
	mark_all "first"
	upper=$(create "$dir" "$id")
	before() {
		point=$upper
		mark_all "kept $n"
		upper=$(create "$dir" "$id")
		mark_all "over $n"
		last=$(last_tick "$dir" "$vm")
	}
	request() { echo "checkpoint_id:'$point'"; }
	after() {
		goes_on "$last"
		look running
		same "checkpoints" "$(checkpoints)" 1
		same "marks in the guest" "$(marks_in_guest)" "$(marks_wanted "over $n")"
		same "marks of the checkpoint above" "$(marks_in_checkpoint "$upper")" "$(marks_wanted "kept $n")"
	}
	series delete_middle DeleteCheckpoint
	clear_all
}

# ---- delete while shut off ----

delete_off() {
	before() { point=$(create "$dir" "$id"); }
	request() { echo "checkpoint_id:'$point'"; }
	after() {
		look "shut off"
		same "checkpoints" "$(checkpoints)" 0
		same "marks of the present state" "$(marks_on_disks)" "$(marks_wanted off)"
	}
	series delete_off DeleteCheckpoint
}

# A checkpoint on which nothing lies: the safety checkpoint of a restore.
delete_leaf() {
	local kept
	kept=$(create "$dir" "$id")
	before() { point=$(restore "$dir" "$kept"); }
	request() { echo "checkpoint_id:'$point'"; }
	after() {
		look "shut off"
		same "checkpoints" "$(checkpoints)" 1
		same "marks of the present state" "$(marks_on_disks)" "$(marks_wanted off)"
		same "marks of the other" "$(marks_in_checkpoint "$kept")" "$(marks_wanted off)"
	}
	series delete_leaf DeleteCheckpoint
	clear_all
}

# kill_series [SERIES...]: these, or all.
kill_series() {
	[ $# -gt 0 ] || set -- $guest_series $branch_series $off_series $uefi_series
	local wanted=" $* "
	if any_wanted $guest_series; then with_system; fi
	blank_series "$@"
	kill_summary
}

any_wanted() { # SERIES...
	local one
	for one in "$@"; do
		case $wanted in *" $one "*) return 0 ;; esac
	done
	return 1
}

with_system() {
	local one
	# Both at once, since most of a boot is waiting.
	with_guest two-01 2
	for one in create_running delete_active; do
		if any_wanted $one; then $one; fi
	done
	guest stop "$dir" two-01
	with_guest one-01 1
	for one in restore_running delete_middle; do
		if any_wanted $one; then $one; fi
	done
	mark_all off
	guest poweroff "$dir" one-01
	for one in create_off delete_off delete_leaf; do
		if any_wanted $one; then $one; fi
	done
	guest_up
	equal the_guest_has_its_marks_at_the_end "$(marks_in_guest)" off
	guest stop "$dir" one-01
}

with_guest() { # VM DISKS
	vm=$1
	disks=$2
	guest make "$dir" "$vm" --disks "$disks"
	id=$(vm_id "$dir" "$vm")
	guest_up
}

# shellcheck shell=bash
# shellcheck disable=SC2317,SC2154,SC2034  # functions are called by name, from "each_point"
# Series that kill, kill-every and kill-all share, in guests without a system (blank.sh): deletes beside other
# branches, by a pull, and such as wait; UEFI variables; memory. The script has each_point NAME METHOD STATE, which
# kills METHOD at its points, and settled, which "after" hands what it was called with: the power state, then the
# oracle.

# shellcheck source=tests/integration/blank.sh
. "$(dirname "${BASH_SOURCE[0]}")/blank.sh"

branch_series="delete_branch delete_waiting delete_deferred"
off_series="delete_pulled"
uefi_series="nvram_create nvram_restore memory_create memory_restore"

RUNNING=power_state:RESTORE_POWER_STATE_RUNNING
OFF=power_state:RESTORE_POWER_STATE_SHUT_OFF

# write_next: another number on all disks; it is $number, too.
write_next() {
	next_number
	write_all "$number"
}

# planned METHOD STEP...: the first time, that the request has these steps in its plan.
planned() {
	local method=$1 steps one
	shift
	[ "$round" = 1 ] || return 0
	call "$dir" "$method" "options{request_id:'$(new_id)' validate_only:true} $(request)" || wrong "no plan: $reply"
	steps=" $(got '[.plan[].name] | join(" ")') "
	for one in "$@"; do
		[[ $steps = *" $one "* ]] || wrong "no $one in its plan:$steps"
	done
}

gone() { ! call "$dir" GetCheckpoint "checkpoint_id:'$1'" && [ "$(got .reason)" = CHECKPOINT_NOT_FOUND ]; }

# goes CHECKPOINT: a delete that the agent finishes by itself; or the agent is killed.
goes() {
	local end=$((SECONDS + 60))
	until gone "$1"; do
		agent alive "$dir" a || return 0
		[ $SECONDS -lt $end ] || return 1
		sleep 0.05
	done
}

# ---- what the overlay carries is another branch, too: REBASE ----

delete_branch() {
	local point kept left numbers
	before() {
		run_again
		write_next
		point=$(create "$dir" "$id")
		write_next
		numbers=("$number")
		kept=$(create "$dir" "$id")
		write_next
		numbers+=("$number")
		left=$(restore "$dir" "$kept" "$RUNNING")
		write_next
		planned DeleteCheckpoint merge rebase
	}
	request() { echo "checkpoint_id:'$point'"; }
	after() {
		settled "$@"
		same "${1-}: checkpoints" "$(checkpoints)" 2
		same "${1-}: the branch point" "$(captured "$kept")" "$(marks_wanted "${numbers[0]}")"
		same "${1-}: the other branch" "$(captured "$left")" "$(marks_wanted "${numbers[1]}")"
		same "${1-}: the present state" "$(present)" "$(marks_wanted "$number")"
		remove "$dir" "$left" || wrong "${1-}: the other branch cannot be deleted"
		remove "$dir" "$kept" || wrong "${1-}: the branch point cannot be deleted"
		same "${1-}: the present state alone" "$(present)" "$(marks_wanted "$number")"
	}
	each_point delete_branch DeleteCheckpoint running
}

# ---- a branch point, with when_possible ----

# A branch point on which $other and the present state lie.
branch_out() {
	run_again
	point=$(create "$dir" "$id")
	write_next
	other=$(restore "$dir" "$point" "$RUNNING")
	write_next
}

finished() { # VICTIM STATE
	goes "$point" || wrong "${1-}: the delete that waited is not finished"
	settled "$@"
	same "${1-}: checkpoints" "$(checkpoints)" 0
	same "${1-}: the present state" "$(present)" "$(marks_wanted "$number")"
}

# The other branch goes, and then the agent does what waited.
delete_waiting() {
	local point other
	before() {
		branch_out
		remove "$dir" "$point" when_possible:true
	}
	request() { echo "checkpoint_id:'$other'"; }
	follow() { goes "$point"; }
	after() { finished "$@"; }
	each_point delete_waiting DeleteCheckpoint running
	follow() { :; }
}

delete_deferred() {
	local point other
	before() { branch_out; }
	request() { echo "checkpoint_id:'$point' when_possible:true"; }
	after() {
		call "$dir" GetCheckpoint "checkpoint_id:'$point'" || true
		same "${1-}: the branch point is" "$(got .checkpoint.state)" CHECKPOINT_STATE_DELETING
		remove "$dir" "$other" || wrong "${1-}: the other branch cannot be deleted"
		finished "$@"
	}
	each_point delete_deferred DeleteCheckpoint running
}

# ---- shut off, and the top holds more than the sealed file: PULL ----

delete_pulled() {
	local below below_number point sealed_number top
	if is_running; then on "$dir" destroy "$vm" >/dev/null; fi
	write_next
	below_number=$number
	below=$(create "$dir" "$id")
	before() {
		restore "$dir" "$below" "$OFF discard_present_state:true" >/dev/null
		next_number
		sealed_number=$number
		qemu-io -f qcow2 -c "write -q -P $number 3M 64k" "$(top_of "$dir" "$vm" vda)" >/dev/null
		point=$(create "$dir" "$id")
		write_next
		top=$(top_of "$dir" "$vm" vda)
		qemu-io -f qcow2 -c "write -q -P $number 8M 1M" "$top" >/dev/null
		planned DeleteCheckpoint pull
	}
	request() { echo "checkpoint_id:'$point'"; }
	after() {
		settled "$@"
		same "${1-}: checkpoints" "$(checkpoints)" 1
		same "${1-}: the top, which stays" "$(top_of "$dir" "$vm" vda)" "$top"
		same "${1-}: what the top had" "$(present) $(read_number "$top" qcow2 8388608)" "$number $number"
		same "${1-}: what was pulled up" "$(read_number "$top" qcow2 3145728)" "$sealed_number"
		same "${1-}: the one below" "$(captured "$below")" "$below_number"
		qemu-img check -q -f qcow2 "$top" >/dev/null || wrong "${1-}: the image is not clean"
	}
	each_point delete_pulled DeleteCheckpoint "shut off"
	remove "$dir" "$below"
}

# ---- UEFI variables: SAVE_NVRAM, COMPARE_NVRAM, PUT_NVRAM ----

# make_uefi VM: its firmware does nothing but halt, so that its variables are what a test writes while it is off.
make_uefi() {
	local code=$dir/images/halt.fd
	vm=$1
	disks=1
	vars=$dir/images/${vm}_VARS.fd
	head -c 262144 /dev/zero | tr '\0' '\364' >"$code"
	chown --reference="$dir/home" "$code"
	guest make "$dir" "$vm" --no-agent --memory 32 --print | sed -E -e '/<(kernel|initrd|cmdline)>/d' \
		-e "s|<type arch.*|&<loader readonly='yes' type='pflash'>$code</loader><nvram>$vars</nvram>|" |
		on "$dir" define /dev/stdin >/dev/null
	id=$(vm_id "$dir" "$vm")
}

# boot_with NUMBER: the VM is started with these variables, and writes the number.
boot_with() {
	if is_running; then on "$dir" destroy "$vm" >/dev/null; fi
	head -c 65536 /dev/zero | tr '\0' "\\$(printf %03o "$1")" >"$vars"
	chmod 600 "$vars"
	chown --reference="$dir/home" "$vars"
	run_again
	write_all "$1"
}
boot_with_next() {
	next_number
	boot_with "$number"
}

variables() { od -A n -t u1 -v -w1 "$1" | sort -u | tr -d ' \n'; }
variables_of() { # CHECKPOINT
	call "$dir" GetCheckpoint "checkpoint_id:'$1'" || true
	variables "$(got '.checkpoint.files[]? | select(.kind == "FILE_KIND_NVRAM") | .path')"
}

MEMORY="consistency:CONSISTENCY_MEMORY minimum_consistency:CONSISTENCY_MEMORY"

# uefi_create NAME CONSISTENCY: of a running VM.
uefi_create() {
	local asked=${2-}
	before() {
		boot_with_next
		note_in_memory "$number"
		count=$(checkpoints)
		planned CreateCheckpoint save-nvram snapshot compare-nvram
	}
	request() { echo "vm_id:'$id' checkpoint_name:'killed $n' $asked"; }
	after() {
		local made
		made=$(got .checkpoint.checkpointId)
		settled "$@"
		same "${1-}: checkpoints" "$(checkpoints)" $((count + 1))
		same "${1-}: the checkpoint" "$(captured "$made") $(variables_of "$made")" "$number $number"
		[ -z "$asked" ] || same "${1-}: reached" "$(got .checkpoint.consistencyReached)" CONSISTENCY_MEMORY
		same "${1-}: the present state" "$(present) $(variables "$vars")" "$number $number"
		goes_on_in_memory "${1-}" "$number"
		remove "$dir" "$made" || wrong "${1-}: it cannot be deleted"
	}
	# There is no memory any more.
	may_refuse() {
		[ -n "$asked" ] && [ "$(got .reason)" = CONSISTENCY_UNAVAILABLE ] && [ "$(state_of_vm)" = "shut off" ]
	}
	after_refusal() {
		settled "$@"
		same "$1: checkpoints" "$(checkpoints)" "$count"
		same "$1: the VM as it was" "$(present) $(variables "$vars")" "$number $number"
	}
	each_point "$1" CreateCheckpoint running
	may_refuse() { false; }
}

nvram_create() { uefi_create nvram_create; }

# uefi_restore NAME CONSISTENCY: of a running VM, to two checkpoints in turns.
uefi_restore() {
	local kept=() numbers=(252 253) asked=${2-} safety one
	for one in 0 1; do
		boot_with "${numbers[one]}"
		note_in_memory "${numbers[one]}"
		kept[one]=$(create "$dir" "$id" "$asked")
	done
	before() {
		boot_with_next
		note_in_memory "$number"
		count=$(checkpoints)
		planned RestoreCheckpoint ${asked:+check-memory} save-nvram put-nvram start
	}
	request() { echo "checkpoint_id:'${kept[round % 2]}' $RUNNING"; }
	after() {
		local wanted=${numbers[round % 2]} each
		safety=$(got .safetyCheckpoint.checkpointId)
		settled "$@"
		same "${1-}: checkpoints" "$(checkpoints)" $((count + 1))
		same "${1-}: after the restore" "$(present) $(variables "$vars")" "$wanted $wanted"
		goes_on_in_memory "${1-}" "$([ -z "$asked" ] && echo 0 || echo "$wanted")"
		same "${1-}: the safety checkpoint" "$(captured "$safety") $(variables_of "$safety")" "$number $number"
		for each in 0 1; do
			same "${1-}: what is kept" "$(captured "${kept[each]}") $(variables_of "${kept[each]}")" \
				"${numbers[each]} ${numbers[each]}"
		done
		remove "$dir" "$safety" || wrong "${1-}: the safety checkpoint cannot be deleted"
	}
	each_point "$1" RestoreCheckpoint running
	clear_all
}

nvram_restore() { uefi_restore nvram_restore; }

# ---- memory: SNAPSHOT with it, CHECK_MEMORY, START from it ----

# A byte of the machine's clock chip: a VM that boots has 0 there.
note_in_memory() {
	monitor --hmp "o /b 0x70 0x60" >/dev/null
	monitor --hmp "o /b 0x71 $1" >/dev/null
}
noted_in_memory() {
	monitor --hmp "o /b 0x70 0x60" >/dev/null
	echo $(($(monitor --hmp "i /b 0x71" | sed -nE 's/.*= *(0x[0-9a-f]+).*/\1/p')))
}

# goes_on_in_memory VICTIM NUMBER: unless it is off since its QEMU was killed.
goes_on_in_memory() {
	is_running || return 0
	same "$1: what is in memory" "$(noted_in_memory)" "$2"
	same "$1: the limit of its pauses" "$(on "$dir" migrate-getmaxdowntime "$vm" | tr -d '\n')" 300
}

memory_create() { uefi_create memory_create "$MEMORY"; }
memory_restore() { uefi_restore memory_restore "$MEMORY"; }

# ---- all of them ----

# blank_series SERIES...: these; if $few is set, of their points every $few-th from about $few_offset on, $few_most.
blank_series() {
	local every=${few:-$every} offset=${few_offset:-$offset} most=${few_most-} one vm=none
	for one in "$@"; do
		case " $branch_series $off_series " in *" $one "*) ;; *) continue ;; esac
		[ "$vm" = blank-01 ] || make_blank blank-01 1
		$one
	done
	if [ "$vm" != none ] && is_running; then on "$dir" destroy "$vm" >/dev/null; fi
	for one in "$@"; do
		case " $uefi_series " in *" $one "*) ;; *) continue ;; esac
		[ "$vm" = uefi-01 ] || make_uefi uefi-01
		$one
	done
	if [ "$vm" != none ] && is_running; then on "$dir" destroy "$vm" >/dev/null; fi
}

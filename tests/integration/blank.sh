# shellcheck shell=bash disable=SC2154,SC2034
# A guest without a system, for tests that kill libvirtd and QEMU: its firmware waits for ever, so that it starts at
# once, and what it "writes" is written by QEMU's own monitor: a number on all of its disks. And an agent that is
# stopped at a point. For scripts that have common.sh, $dir, $vm, $id and $disks.

# A finding; the script's own has more to say of where.
type wrong >/dev/null 2>&1 || wrong() { echo "     violation: $*"; }

make_blank() { # VM DISKS
	vm=$1
	disks=$2
	guest make "$dir" "$vm" --disks "$disks" --no-agent --memory 32 --print |
		sed -E '/<(kernel|initrd|cmdline)>/d' | on "$dir" define /dev/stdin >/dev/null
	id=$(vm_id "$dir" "$vm")
}

state_of_vm() { on "$dir" domstate "$vm" | tr -d '\n'; }

is_running() { [ "$(state_of_vm)" = running ]; }

run_again() { is_running || on "$dir" start "$vm" >/dev/null; }

qemu_pid() { cat "$(records_of "$dir")/$vm.pid" 2>/dev/null; }

monitor() { on "$dir" qemu-monitor-command "$vm" "$@"; }

number=0
next_number() { number=$((number % 250 + 1)); }

# write_all NUMBER: the guest writes to all of its disks.
write_all() {
	local one target out
	if is_running; then
		for one in $(monitor '{"execute":"query-block"}' | jq -r '.return[].qdev | select(. // "" | contains("virtio-disk"))'); do
			out=$(monitor --hmp "qemu-io -d $one \"write -P $1 1048576 65536\"")
			[ -z "${out//[$' \r\n']/}" ] || wrong "the guest cannot write: $out"
			monitor --hmp "qemu-io -d $one flush" >/dev/null
		done
	else
		for target in $(targets); do
			qemu-io -f qcow2 -c "write -P $1 1048576 65536" "$(top_of "$dir" "$vm" "$target")" >/dev/null
		done
	fi
	written=$1
}

targets() { if [ "$disks" = 2 ]; then echo vda vdb; else echo vda; fi; }

read_number() { # FILE FORMAT [OFFSET]
	echo $((16#$(qemu-io -r -U -f "$2" -c "read -v ${3:-1048576} 1" "$1" | sed -nE 's/^[0-9a-f]{8}: +([0-9a-f]{2}) .*/\1/p')))
}

present() { # what all disks hold
	local target
	for target in $(targets); do read_number "$(top_of "$dir" "$vm" "$target")" qcow2; done
}

captured() { # CHECKPOINT-ID
	local target path format
	call "$dir" GetCheckpoint "checkpoint_id:'$1'" || { echo "$reply"; return; }
	local checkpoint
	checkpoint=$(got .checkpoint)
	for target in $(targets); do
		read -r path format < <(sealed "$checkpoint" "$target")
		read_number "$path" "$format"
	done
}

# follow: after a call that succeeded, what the agent still does by itself and may be stopped in, too.
type follow >/dev/null 2>&1 || follow() { :; }

agent_is() { # LETTER of its state in /proc
	local pid
	pid=$(agent pid "$dir" a) && grep -q "^State:[[:space:]]*$1" "/proc/$pid/status" 2>/dev/null
}

# stop_at POINT METHOD TEXT: makes the call, until its agent stands at that point. FALSE: the call ended before; how is
# in $reply and $status.
stop_at() {
	agent kill "$dir" a
	agent start "$dir" a --env "VMCKPT_PAUSE_AT=$1"
	{ "$support/agent" call "$dir" "$2" "$3" >"$base/reply" 2>&1 && follow >/dev/null 2>&1; } &
	caller=$!
	until agent_is T; do
		if ! kill -0 "$caller" 2>/dev/null; then
			status=0
			wait "$caller" || status=$?
			reply=$(cat "$base/reply")
			return 1
		fi
		sleep 0.01
	done
}

# finally METHOD TEXT: the same call, until it is done. What was under way when its VM was killed may say so once.
finally() {
	local end=$((SECONDS + 60))
	until call "$dir" "$@"; do
		case $(got .reason) in
		AGENT_STARTING | OPERATION_RUNNING | VM_BUSY | HYPERVISOR_UNAVAILABLE) ;;
		*) return 1 ;;
		esac
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

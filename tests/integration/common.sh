# shellcheck shell=bash
# What the integration groups share: one or several real hosts, calls of their agents, and questions
# to guests and files. Each group is a bash script that begins with
#   . "$(dirname "$0")/common.sh"
# and ends with "finish". VMCKPT_BUILD names the build folder; default build/dev.

# shellcheck source=tests/support/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../support/lib.sh"
integration=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export VMCKPT_BUILD=${VMCKPT_BUILD:-$integration/../../build/dev}
VMCKPT_BUILD=$(cd "$VMCKPT_BUILD" && pwd) || exit 2
export LC_ALL=C.UTF-8

agent() { "$support/agent" "$@"; }

# cli DIR... -- ARGUMENTS: the client. When several hosts are given it finds the host itself.
cli() { "$support/agent" cli "$@"; }

# call DIR METHOD [TEXT]: a raw call. The reply (or the refusal) is in $reply, and so on stdout.
reply=''
call() {
	local status=0
	reply=$("$support/agent" call "$@") || status=$?
	return $status
}

# got FILTER: jq -r on the last reply. jq takes 40 ms to begin: what is no more than a path is found without it.
got() {
	if [[ $1 =~ ^(\.[A-Za-z]+)+$ ]]; then
		"$VMCKPT_BUILD/tests/support/vmckpt-pick" "$1" <<<"$reply"
	else
		jq -r "$1" <<<"$reply"
	fi
}

new_id() {
	local id
	read -r id </proc/sys/kernel/random/uuid
	echo "$id"
}

# on DIR VIRSH-COMMAND...
on() {
	local dir=$1 uri
	shift
	read -r uri <"$dir/uri"
	virsh -q -c "$uri" "$@"
}

# seen_by DIR FILE: where that hypervisor's file of this name is found; a system daemon has folders of its own.
seen_by() {
	if [ -d "$1/system" ]; then echo "/proc/$(cat "$1/system/pid")/root$2"; else echo "$2"; fi
}

# records_of DIR: the folder in which libvirtd keeps what it knows of running VMs: VM.xml and VM.pid.
records_of() {
	if [ -d "$1/system" ]; then
		seen_by "$1" /run/libvirt/qemu
	else
		echo "$(readlink "$1/run")/run/libvirt/qemu/run"
	fi
}

# definitions_of DIR: the folder of its definitions.
definitions_of() {
	if [ -d "$1/system" ]; then echo "$1/system/etc/qemu"; else echo "$(readlink "$1/run")/config/libvirt/qemu"; fi
}

vm_id() { on "$1" domuuid "$2" | tr -d '\n'; }

# host NAME [--system] [AGENT-OPTIONS...]: a hypervisor and its agent in $base/NAME. With VMCKPT_SYSTEM=1 every host is
# a system daemon with production's ownership (see "hypervisor"), and the oracle looks at who owns what.
host() {
	local name=$1 system=()
	shift
	[ "${1-}" != --system ] || { system=(--system); shift; }
	hypervisor start "$name" "$base/$name" "${system[@]}" >/dev/null
	agent start "$base/$name" "$name" "$@"
}

# create DIR VM-ID [TEXT]: prints the new checkpoint's ID; what was replied is lost.
# The same with restore DIR CHECKPOINT [TEXT] and remove DIR CHECKPOINT [TEXT].
create() {
	call "$1" CreateCheckpoint "options{request_id:'$(new_id)'} vm_id:'$2' ${3-}" ||
		{ echo "$reply" >&2; return 1; }
	got .checkpoint.checkpointId
}
restore() {
	call "$1" RestoreCheckpoint "options{request_id:'$(new_id)'} checkpoint_id:'$2' ${3-}" ||
		{ echo "$reply" >&2; return 1; }
	got '.safetyCheckpoint.checkpointId // ""'
}
remove() {
	call "$1" DeleteCheckpoint "options{request_id:'$(new_id)'} checkpoint_id:'$2' ${3-}" ||
		{ echo "$reply" >&2; return 1; }
}

# refused NAME REASON WORD COMMAND...: passes if the call fails with that reason and its message has
# the word.
refused() {
	local name=$1 reason=$2 word=$3 reply=''
	shift 3
	if "$@" >/dev/null 2>&1; then
		fail "$name" "it was accepted: ${reply:0:300}"
	elif [ "$(got .reason 2>/dev/null)" != "$reason" ]; then
		fail "$name" "wanted $reason, got: ${reply:0:400}"
	elif ! grep -qiF -- "$word" <<<"$reply"; then
		fail "$name" "the message does not say \"$word\": ${reply:0:400}"
	else
		pass "$name"
	fi
}

# cli_says NAME STATUS WORD COMMAND...: the client's exit status and a word it prints.
cli_says() {
	local name=$1 wanted=$2 word=$3 out status=0
	shift 3
	out=$("$@" 2>&1 </dev/null) || status=$?
	if [ $status != "$wanted" ]; then
		fail "$name" "exit status $status, wanted $wanted: ${out:0:400}"
	elif ! grep -qiF -- "$word" <<<"$out"; then
		fail "$name" "it does not say \"$word\": ${out:0:400}"
	else
		pass "$name"
	fi
}

# world DIR: everything that a refusal must leave alone, as text: files with mode, owner, size, times
# and contents, definitions, and the catalogue. Of what a running guest writes to, no more than that it
# is there.
world() {
	local dir=$1 name file busy
	busy=$(for name in $(on "$dir" list --name); do on "$dir" domblklist "$name" | awk '{print $2}'; done)
	find "$dir/images" -type f | sort | while IFS= read -r file; do
		stat -c '%n %a %u' "$file"
		if ! grep -qxF "$file" <<<"$busy"; then
			stat -c '%s %y' "$file"
			sha256sum <"$file"
		fi
	done
	for name in $(on "$dir" list --all --name | sort); do
		echo "== $name"
		on "$dir" dumpxml --inactive --security-info "$name" 2>/dev/null || true
		on "$dir" domstate "$name"
	done
	VMCKPT_AS='admin' "$support/agent" call "$dir" ListCheckpoints 'filter{include_deleting:true}' |
		jq -S 'del(.checkpoints[]? | .enabled, .disabledReason, .etag)'
}

# unchanged NAME DIR WORLD: passes if the world is what it was.
unchanged() {
	local difference
	if difference=$(diff <(printf '%s\n' "$3") <(world "$2")); then
		pass "$1"
	else
		fail "$1" "$(head -n 6 <<<"$difference")"
	fi
}

# oracle DIR VM [STATE]: the oracle of the hazards: prints what is violated, fails if anything is.
oracle() {
	"$integration/oracle" --support "$support" "$@"
}

# xpath EXPRESSION: of the XML on stdin.
xpath() { xmllint --xpath "$1" - 2>/dev/null; }

top_of() { # DIR VM TARGET: the file that the definition names
	on "$1" dumpxml --inactive "$2" | xpath "string(//disk[target/@dev='$3']/source/@file)"
}

seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

# disk_file IMAGE FORMAT FILE: a file of the guest's, as a guest that boots on this image (and what
# lies below it) would find it: its file system's journal is replayed first, on a copy.
disk_file() {
	local copy=$base/look.$BASHPID
	rm -f "$copy"
	qemu-img convert -q -U -f "$2" -O raw "$1" "$copy"
	/sbin/e2fsck -fy "$copy" >/dev/null 2>&1 || [ $? -le 1 ] || { echo "cannot be mounted"; rm -f "$copy"; return; }
	/sbin/debugfs -R "cat $3" "$copy" 2>/dev/null
	rm -f "$copy"
}

# sealed CHECKPOINT-JSON TARGET: path and format of a sealed file.
sealed() {
	jq -r --arg t "$2" '.disks[] | select(.target == $t) |
		.sealedFile + " " + (if .format == "DISK_FORMAT_RAW" then "raw" else "qcow2" end)' <<<"$1"
}

# contents_of DIR CHECKPOINT: the mark that a guest would find that is restored to it (on vda).
contents_of() {
	local path format
	call "$1" GetCheckpoint "checkpoint_id:'$2'" >/dev/null
	read -r path format < <(sealed "$(got .checkpoint)" vda)
	disk_file "$path" "$format" /mark
}

# last_tick DIR VM: the last whole tick on its console.
last_tick() { grep -aoE '^tick [0-9]+' "$1/$2.console" | tail -n 1 | cut -d ' ' -f 2; }

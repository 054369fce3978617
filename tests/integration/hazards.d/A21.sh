# shellcheck shell=bash disable=SC2154,SC2317  # variables of "hazards"; functions called by name
# The host is lost, its disks are not: another agent adopts from the manifests
A21() {
	local other=$base/moved lost=$base/lost one
	[ -d "$other" ] || host moved
	host lost
	guest make "$lost" a21-01 --no-agent
	id=$(vm_id "$lost" a21-01)
	one=$(create "$lost" "$id")
	create "$lost" "$id" >/dev/null
	on "$lost" dumpxml --inactive a21-01 >"$dir/a21.xml"
	agent kill "$lost" lost
	hypervisor kill lost "$lost"
	on "$other" define "$dir/a21.xml" >/dev/null
	A21_has() { [ "$("$support/agent" call "$1" ListCheckpoints "filter{vm_id:'$id'}" | jq '.checkpoints | length')" = "$2" ]; }
	check A21_adopted eventually 20 A21_has "$other" 2
	check A21_restored restore "$other" "$one"
	# The host is found again, with the VM defined on it, and the catalogue of then.
	hypervisor start lost "$lost" >/dev/null
	agent start "$lost" lost
	check A21_found_again_it_claims_nothing eventually 20 A21_has "$lost" 0
	refused A21_and_touches_nothing VM_MOVED "host" call "$lost" DeleteCheckpoint "options{request_id:'$(new_id)'} checkpoint_id:'$one'"
	on "$other" undefine a21-01
	agent kill "$lost" lost
	hypervisor stop lost "$lost"
}

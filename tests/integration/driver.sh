# shellcheck shell=bash disable=SC2034
# What the groups driver-checks and driver-steps share: programs that drive the qemu driver's steps, one by one, on a
# real private hypervisor.

# shellcheck source=tests/support/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../support/lib.sh"
programs=${VMCKPT_BUILD:-$support/../../build/dev}/tests/integration

# A hypervisor with what its first guest brings: the kernel, which only root may fetch.
driver_hypervisor() {
	fixture_begin
	dir=$base/test
	export CMOCKA_MESSAGE_OUTPUT=TAP VMCKPT_TEST_DIR=$dir VMCKPT_TEST_SUPPORT=$support VMCKPT_TEST_URI
	VMCKPT_TEST_URI=$(hypervisor start test "$dir")
	guest make "$dir" first
	guest virsh "$dir" undefine first >/dev/null
	rm -f "$dir"/images/first-* "$dir"/first.*
}

# driver_program [--as-user] NAME [FILTER]: of the build; each of its tests is one here. FILTER is cmocka's: a test's
# name, with wildcards. --as-user runs it as the hypervisor's own user, as an agent of a session is run, so that modes
# count; some tests end libvirtd and need root.
driver_program() {
	local as_user=() status=0 line before=$((passed + failed)) bad=$failed
	[ "$1" != --as-user ] || { as_user=(hypervisor run "$dir"); shift; }
	while IFS= read -r line; do
		printf '%s\n' "$line" >&2
		case $line in
		'ok '*) pass "${line#* - }" ;;
		'not ok '*) fail "${line#* - }" "what it says is in the log" ;;
		esac
	done < <("${as_user[@]}" stdbuf -oL "$programs/$1" "${@:2}")
	wait $! || status=$?
	[ $((passed + failed)) != "$before" ] || fail "$1" "no test ran"
	[ $status = 0 ] || [ "$failed" != "$bad" ] || fail "$1" "ended with status $status"
}

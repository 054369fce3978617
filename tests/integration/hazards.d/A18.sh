# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# Another VM's linked clone, or a template, lies on a sealed file
A18() {
	local one two bottom clone before
	make_guest a18-01
	up
	bottom=$dir/images/a18-01-vda.qcow2
	guest mark "$dir" "$vm" one
	one=$(create "$dir" "$id")
	guest mark "$dir" "$vm" two
	two=$(create "$dir" "$id")
	guest mark "$dir" "$vm" three
	guest poweroff "$dir" "$vm"

	# A thin clone of checkpoint two, in another VM that has no checkpoint.
	clone=$dir/images/a18-clone.qcow2
	overlay "$clone" "$dir/images/$(basename "$(find "$dir/images" -name "a18-01-vda.ckpt-${one%%-*}.qcow2")")" qcow2
	on "$dir" dumpxml --inactive "$vm" | sed "s|<name>.*</name>|<name>a18-02</name>|; /<uuid>/d; s|$(top_of "$dir" "$vm" vda)|$clone|; s|a18-01.console|a18-02.console|g; s|a18-01.agent|a18-02.agent|g" |
		sed -z 's|<backingStore.*</backingStore>||' >"$dir/a18-02.xml" # the clone's header alone tells
	on "$dir" define "$dir/a18-02.xml" >/dev/null
	before=$(world "$dir")
	refused A18_the_sealed_file_itself BRANCH_POINT "VM a18-02" ask DeleteCheckpoint "checkpoint_id:'$two'"
	refused A18_and_what_lies_below BRANCH_POINT "VM a18-02" ask DeleteCheckpoint "checkpoint_id:'$one'"
	unchanged A18_nothing_changed "$dir" "$before"
	equal A18_the_clone_reads "$(disk_file "$clone" qcow2 /mark)" two

	# Its file is away, and what it lay on is remembered; by an agent that never saw it nobody can tell.
	mv "$clone" "$clone.away"
	refused A18_a_clone_whose_file_is_away BRANCH_POINT "VM a18-02" ask DeleteCheckpoint "checkpoint_id:'$two'"
	agent stop "$dir" a
	agent start "$dir" a
	refused A18_one_that_was_never_seen DISK_FILE_MISSING "$clone" ask DeleteCheckpoint "checkpoint_id:'$two'"
	refused A18_and_below_it DISK_FILE_MISSING "VM a18-02" ask DeleteCheckpoint "checkpoint_id:'$one'"
	check A18_the_doctor_tells grep -q "VM a18-02" <<<"$(call "$dir" Diagnose "" && got .)"
	mv "$clone.away" "$clone"
	unchanged A18_nothing_changed_by_that "$dir" "$before"
	mv "$clone" "$clone.away"

	# With when_possible it waits for the clone to be told of, and then to go.
	remove "$dir" "$two" "when_possible:true" >/dev/null && pass A18_waits_when_possible
	check A18_says_for_whom grep -q "VM a18-02" <<<"$(got '.warnings[0]')"
	mv "$clone.away" "$clone"
	equal A18_the_clone_still_reads "$(disk_file "$clone" qcow2 /mark)" two
	on "$dir" undefine a18-02 >/dev/null
	rm "$clone"
	remove "$dir" "$one" >/dev/null && pass A18_deleted_once_the_clone_is_gone
	check A18_and_the_one_that_waited eventually 20 eval '[ "$(find "$dir/images" -name "a18-01-vda*.qcow2" | wc -l)" = 1 ]'
	equal A18_one_file_again "$(top_of "$dir" "$vm" vda)" "$bottom"
	equal A18_contents "$(disk_file "$bottom" qcow2 /mark)" three
	whole A18_oracle "shut off"
	throw_away
	A18_by_virsh
}

# The same with virsh: the clone lies on the file into which is merged.
A18_by_virsh() {
	# shellcheck source=tests/integration/blank.sh
	. "$integration/blank.sh"
	local below over clone=$dir/images/a18-03-clone.qcow2 before status=0
	make_blank a18-03 1
	write_all 1
	run_again
	below=$(top_of "$dir" "$vm" vda)
	by_virsh one --no-metadata
	over=$(top_of "$dir" "$vm" vda)
	overlay "$clone" "$below" qcow2
	before=$(reads "$clone")
	write_all 2
	by_virsh two --no-metadata
	on "$dir" blockcommit "$vm" vda --base "$below" --top "$over" --wait >/dev/null 2>&1 || status=$?
	beside "virsh blockcommit into a file on which another VM's clone lies: status $status; the clone read $before before, and $(reads "$clone") afterwards"
	throw_away
}

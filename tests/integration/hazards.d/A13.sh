# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# Domain <metadata> is captured and comes back with a checkpoint
A13() {
	local one two uri=http://owner.example/ticket live
	make_guest a13-01
	ticket() { on "$dir" metadata "$vm" --uri $uri "$@" 2>/dev/null | xpath 'string(/*)'; }
	set_ticket() { on "$dir" metadata "$vm" --uri $uri --key owner --set "<ticket>$1</ticket>" --config >/dev/null; }
	# All of the definition that the agent might have left something in: what remains beside disks is the owner's.
	ours() { on "$dir" dumpxml --inactive --security-info "$vm" | sed -E 's|<source file=[^>]*>||' | sed "s|$dir||g" | grep -iE "vmcheckpoint|ckpt|$one" || true; }

	set_ticket before
	guest start "$dir" "$vm"
	one=$(create "$dir" "$id")
	equal A13_create_leaves_it "$(ticket --config)" before
	equal A13_nothing_of_the_catalogue_in_the_definition "$(ours)" ""
	live=$(on "$dir" dumpxml "$vm" | sed -E 's|<source file=[^>]*>||' | sed "s|$dir||g" | grep -iE "vmcheckpoint|$one" || true)
	equal A13_nor_in_the_running_vm "$live" ""
	set_ticket after
	# The owner's part of the hardware configuration: it comes back as captured, and the safety checkpoint has the other.
	two=$(restore "$dir" "$one")
	equal A13_restored_as_captured "$(ticket --config)" before
	restore "$dir" "$two" >/dev/null
	equal A13_the_safety_checkpoint_has_the_newer "$(ticket --config)" after
	equal A13_still_nothing_of_the_catalogue "$(ours)" ""

	# The catalogue needs none of it: taken away, or turned back by others, it loses nothing.
	on "$dir" metadata "$vm" --uri $uri --remove --config >/dev/null
	equal A13_the_catalogue_does_not_live_there "$(enabled "$one") $(enabled "$two")" "true true"
	call "$dir" ListCheckpoints "filter{vm_id:'$id'}"
	equal A13_all_are_listed "$(got '.checkpoints | length')" 3
	whole A13_oracle

	make_guest a13-02 --no-agent
	set_ticket before
	on "$dir" snapshot-create-as "$vm" by-virsh >/dev/null
	set_ticket after
	on "$dir" snapshot-revert "$vm" by-virsh >/dev/null
	beside "virsh snapshot-revert: what another tool had noted in <metadata> as \"after\" is \"$(ticket --config)\""
}

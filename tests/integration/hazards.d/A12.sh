# shellcheck shell=bash disable=SC2154  # variables of "hazards"
# Overlays of shut-off VMs readable by everybody (CVE-2025-13193)
A12() {
	make_guest a12-01 --disks 2 --format raw
	# Watches the folder as fast as it can, since what counts is the mode from the first byte on.
	python3 - "$dir/images" "$dir/a12" <<-'END' &
		import os, sys
		folder, out = sys.argv[1:]
		known, seen = set(os.listdir(folder)), {}
		open(out + ".ready", "w").close()
		while not os.path.exists(out + ".stop"):
		    for entry in os.scandir(folder):
		        if entry.name not in known:
		            try:
		                seen[entry.name] = seen.get(entry.name, 0) | entry.stat(follow_symlinks=False).st_mode & 0o777
		            except FileNotFoundError:
		                pass
		with open(out + ".new", "w") as f:
		    f.writelines(f"{mode:o} {name}\n" for name, mode in sorted(seen.items()))
		os.rename(out + ".new", out)
	END
	local watcher=$! one
	eventually 10 test -e "$dir/a12.ready"
	one=$(create "$dir" "$id")
	restore "$dir" "$one" >/dev/null
	touch "$dir/a12.stop"
	wait $watcher
	check A12_new_files_were_seen [ "$(grep -c 'ckpt-.*qcow2' "$dir/a12")" -ge 4 ]
	# Sealed later, to 0440; never anything for others, and for the group nothing but that.
	equal A12_nobody_else_could_ever_read "$(awk '$1 !~ /^(600|640|440)$/' "$dir/a12")" ""
	equal A12_overlays_are_0600 "$(stat -c %a "$(top_of "$dir" "$vm" vda)" "$(top_of "$dir" "$vm" vdb)" | xargs)" "600 600"
	make_guest a12-02 --no-agent
	on "$dir" snapshot-create-as "$vm" by-virsh --disk-only >/dev/null
	beside "virsh snapshot-create-as --disk-only of a shut-off VM: mode $(stat -c %a "$dir/images/a12-02-vda.by-virsh")"
}

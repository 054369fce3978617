"""What "worlds" runs: actions of the model's generator, read from standard input, done to real guests.

usage: worlds.py SUPPORT DIR     guests "one" (two disks) and "two" (one disk) are defined there, shut off

Kept beside the agent: what each disk and each checkpoint must hold (a word in a file of the guest's). After every
action each of them is read from the image files, and after every boot from the guest. Prints what it does; exits 1
at the first violation.
"""
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid

SUPPORT, DIR = sys.argv[1], os.path.realpath(sys.argv[2])
INTEGRATION = os.path.dirname(os.path.realpath(__file__))
BOOTS_MAX = 12  # a boot takes seconds
FAULTS = {"FAULT_CRASH", "FAULT_HOST", "FAULT_AWAY", "FAULT_QEMU", "FAULT_OWNER_STOP", "FAULT_OWNER_START"}
# A refusal that a caller meets with: nothing was changed.
REFUSED = {"BRANCH_POINT", "CHECKPOINT_DELETING", "CHECKPOINT_NOT_FOUND", "DISK_RESIZED", "DEPTH_LIMIT",
           "VM_STATE_UNSUPPORTED"}
# After a fault these may be the operation's honest end.
FAILED = REFUSED | {"HYPERVISOR_FAILED", "HYPERVISOR_UNAVAILABLE", "VM_BUSY", "OPERATION_CANCELLED", "QUIESCE_FAILED"}
PASSING = {"OPERATION_RUNNING", "HYPERVISOR_UNAVAILABLE", "VM_BUSY", "AGENT_STARTING", ""}


class Violation(Exception):
    pass


def say(text):
    print(text, flush=True)


def run(*command, check=True, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if check and done.returncode:
        raise Violation(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def support(tool, *words, **more):
    return run(f"{SUPPORT}/{tool}", *words, **more)


URI = support("hypervisor", "uri", DIR)


def virsh(*words, check=True):
    return run("virsh", "-q", "-c", URI, *words, check=check)


def call(method, text):
    """(reply, reason): reason None for OK."""
    done = subprocess.run([f"{SUPPORT}/agent", "call", DIR, method, text], capture_output=True, text=True)
    try:
        reply = json.loads(done.stdout) if done.stdout.strip() else {}
    except json.JSONDecodeError:
        reply = {}
    return reply, None if done.returncode == 0 else reply.get("reason", "")


def read_word(image, fmt, copy):
    """/mark of the file system on this image, as a guest that boots from it would find it."""
    run("qemu-img", "convert", "-q", "-U", "-f", fmt, "-O", "raw", image, copy)
    subprocess.run(["/sbin/e2fsck", "-fy", copy], capture_output=True)
    out = subprocess.run(["/sbin/debugfs", "-R", "cat /mark", copy], capture_output=True, text=True).stdout
    os.unlink(copy)
    return out.strip() or "-"


class Vm:
    def __init__(self, name, disks):
        self.name, self.targets = name, [f"vd{'ab'[i]}" for i in range(disks)]
        self.id = virsh("domuuid", name)
        self.words = ["-"] * disks
        self.description = ""

    def state(self):
        return virsh("domstate", self.name).split("\n")[0]

    def listed(self, *which):
        listed = dict(line.split(None, 1) for line in virsh("domblklist", *which, self.name).splitlines())
        return [listed[t] for t in self.targets]

    def tops(self):
        return self.listed("--inactive")

    def live_tops(self):
        return self.listed()

    def qemu(self):
        for pid in run("pgrep", "-f", f"guest={self.name},", check=False).split():
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    if DIR.encode() in f.read():
                        return int(pid)
            except (FileNotFoundError, ProcessLookupError):
                pass  # it ended meanwhile
        return None

    def kill(self):
        pid = self.qemu()
        try:
            if pid:
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # likewise


class Checkpoint:
    def __init__(self, vm, words, description):
        self.vm, self.words, self.description = vm, words, description


class World:
    def __init__(self):
        self.vms = [Vm("one", 2), Vm("two", 1)]
        self.checkpoints = {}
        self.deferred = {}
        self.written = self.boots = self.faults = self.mutations = self.refusals = 0
        self.last = None
        self.copy = os.path.join(os.path.dirname(DIR), "worlds.copy")

    # ---- the world's own acts ----

    def booted(self, vm, offset):
        """The guest came up by itself or by us: it must have found what its disks are to hold."""
        self.boots += 1
        line = support("guest", "wait-line", DIR, vm.name, "--from", str(offset), "^boot [0-9]+ ")
        found = re.findall(r"vd[ab]=(\S+)", line)[:len(vm.words)]
        if found != vm.words:
            raise Violation(f"{vm.name} booted with {found}, should hold {vm.words}")
        support("guest", "wait-agent", DIR, vm.name)

    def start(self, vm):
        offset = int(support("guest", "console-size", DIR, vm.name))
        support("guest", "start", DIR, vm.name)
        self.booted(vm, offset)

    def act_write(self, vm, a):
        if vm.state() != "running":
            return
        self.written += 1
        word = f"w{self.written}"
        for i in range(len(vm.words)):
            if len(vm.words) == 1 or a.b % 3 in (i, 2):
                support("guest", "mark", DIR, vm.name, word, f"/mnt/{'ab'[i]}/mark")
                vm.words[i] = word
        say(f"  {vm.name} now holds {vm.words}")

    def act_power(self, vm, a):
        state = vm.state()
        if state == "paused":
            virsh("resume", vm.name)
        elif state == "running":
            virsh("suspend" if a.b % 3 == 0 else "destroy", vm.name)
        elif self.boots < BOOTS_MAX:
            self.start(vm)
        say(f"  {vm.name}: {state} -> {vm.state()}")

    def act_resize(self, vm, a):
        i = a.b % len(vm.targets)
        top = vm.tops()[i]
        size = json.loads(run("qemu-img", "info", "-U", "--output=json", top))["virtual-size"] + (1 << 20)
        if vm.state() == "shut off":
            run("qemu-img", "resize", "-q", "-f", "qcow2", top, str(size))
        else:
            virsh("blockresize", vm.name, vm.targets[i], f"{size}B")
        say(f"  {vm.name} {vm.targets[i]}: {size} bytes")

    def act_configure(self, vm, a):
        vm.description = f"d{a.b % 100}"
        virsh("desc", vm.name, "--config", vm.description)

    def act_restart(self, vm, a):
        support("agent", "stop", DIR, "a")
        support("agent", "start", DIR, "a")

    def act_host(self, vm, a):
        self.power_cut()
        self.revive()

    # ---- faults ----

    def power_cut(self):
        for vm in self.vms:
            vm.kill()
        support("hypervisor", "kill", "a", DIR)
        support("agent", "kill", DIR, "a", check=False)

    def revive(self):
        support("hypervisor", "start", "a", DIR)
        if subprocess.run([f"{SUPPORT}/agent", "alive", DIR, "a"]).returncode:
            support("agent", "start", DIR, "a")

    def strike(self, vm, kind):
        self.faults += 1
        if kind == "FAULT_CRASH":
            support("agent", "kill", DIR, "a", check=False)
        elif kind == "FAULT_HOST":
            self.power_cut()
        elif kind == "FAULT_AWAY":
            support("hypervisor", "kill", "a", DIR)
        elif kind == "FAULT_QEMU":
            vm.kill()
        elif kind == "FAULT_OWNER_STOP":
            virsh("destroy", vm.name, check=False)
        elif kind == "FAULT_OWNER_START":
            virsh("start", vm.name, check=False)
        self.revive()

    # ---- mutations ----

    def request(self, vm, method, text, fault, at):
        """(reply, reason), whatever came in between: repeated with its id until it says how it ended."""
        self.mutations += 1
        full = f"options{{request_id:'{uuid.uuid4()}'}} {text}"
        self.last = (method, full)
        if fault:
            process = subprocess.Popen([f"{SUPPORT}/agent", "call", DIR, method, full], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            time.sleep(at * 0.01)  # somewhere in the middle of it
            say(f"  {fault} after {at * 10} ms")
            self.strike(vm, fault)
            process.wait()
        until = time.monotonic() + 90
        while True:
            reply, reason = call(method, full)
            if reason not in PASSING or time.monotonic() > until:
                break
            time.sleep(0.3)
        if reason is not None and reason not in (FAILED if fault else REFUSED):
            raise Violation(f"{method} of {vm.name}: {json.dumps(reply)}")
        self.refusals += reason is not None
        say(f"  {method}: {reason or 'OK'}")
        if fault == "FAULT_AWAY":
            self.believe_again(vm)
        return reply, reason

    def believe_again(self, vm):
        """Hazard A5: libvirtd died in a snapshot, and is wrong about the VM for as long as that runs. It must be said."""
        if vm.state() == "shut off" or vm.live_tops() == vm.tops():
            return
        until = time.monotonic() + 20
        while not call("GetVirtualMachine", f"vm_id:'{vm.id}'")[0]["virtualMachine"].get("quarantineReason"):
            if time.monotonic() > until:
                raise Violation(f"libvirt believes that {vm.name} runs on {vm.live_tops()}, and nobody says so")
            time.sleep(0.2)
        virsh("destroy", vm.name)
        say(f"  {vm.name} was powered off: libvirt was wrong about it (A5)")

    def pick(self, vm, number):
        mine = sorted(i for i, c in self.checkpoints.items() if c.vm is vm)
        return mine[number % len(mine)] if mine else None

    def act_create(self, vm, a):
        words, description = list(vm.words), vm.description
        reply, reason = self.request(vm, "CreateCheckpoint", f"vm_id:'{vm.id}'", *a.fault())
        if not reason:
            self.checkpoints[reply["checkpoint"]["checkpointId"]] = Checkpoint(vm, words, description)

    def act_restore(self, vm, a):
        target = self.pick(vm, a.b)
        if not target:
            return self.act_create(vm, a)
        discard = a.c % 4 == 0
        off = self.boots >= BOOTS_MAX or a.d % 2
        wanted = self.checkpoints[target]
        before = Checkpoint(vm, list(vm.words), vm.description)
        offset = int(support("guest", "console-size", DIR, vm.name))
        text = f"checkpoint_id:'{target}' discard_present_state:{'true' if discard else 'false'}"
        if off:
            text += " power_state:RESTORE_POWER_STATE_SHUT_OFF"
        fault, at = a.fault()
        reply, reason = self.request(vm, "RestoreCheckpoint", text, fault, at)
        if reason:
            return
        vm.words, vm.description = list(wanted.words), wanted.description
        if not discard:
            self.checkpoints[reply["safetyCheckpoint"]["checkpointId"]] = before
        if virsh("desc", vm.name) not in (vm.description, f"No description for domain: {vm.name}"):
            raise Violation(f"{vm.name} has another description than was captured: {virsh('desc', vm.name)}")
        if not fault and vm.state() == "running":
            self.booted(vm, offset)

    def act_delete(self, vm, a):
        if sum(c.vm is vm for c in self.checkpoints.values()) < 3:
            return self.act_create(vm, a)  # else no tree would grow
        target = self.pick(vm, a.b)
        deferred = a.c % 3 == 0
        text = f"checkpoint_id:'{target}'" + (" when_possible:true" if deferred else "")
        reply, reason = self.request(vm, "DeleteCheckpoint", text, *a.fault())
        if not reason:
            gone = self.checkpoints.pop(target)
            if deferred:
                self.deferred[target] = gone
        elif reason not in REFUSED:
            self.finish_delete(vm, target)

    def finish_delete(self, vm, target):
        """One that failed half-way is only to be finished."""
        reply, reason = call("GetCheckpoint", f"checkpoint_id:'{target}'")
        if reason == "CHECKPOINT_NOT_FOUND":
            raise Violation(f"checkpoint {target} is gone, though its delete failed")
        if reply["checkpoint"]["state"] == "CHECKPOINT_STATE_READY":
            return
        again, reason = self.request(vm, "DeleteCheckpoint", f"checkpoint_id:'{target}'", None, 0)
        if reason:
            raise Violation(f"a delete that had begun cannot be finished: {json.dumps(again)}")
        del self.checkpoints[target]

    def act_repeat(self, vm, a):
        if not self.last:
            return
        first, second = call(*self.last), call(*self.last)
        if first[1] is None and second[0].get("checkpoint", {}).get("checkpointId") != \
                first[0]["checkpoint"]["checkpointId"]:
            raise Violation(f"{self.last[0]} repeated gave another result")

    # ---- checks ----

    def check(self):
        listed = []
        until = time.monotonic() + 30
        while True:
            reply, reason = call("ListCheckpoints", "filter{include_deleting:true} page_size:500")
            if reason:
                raise Violation(f"ListCheckpoints: {json.dumps(reply)}")
            listed = reply.get("checkpoints", [])
            ids = {c["checkpointId"] for c in listed}
            # What was to be deleted when possible goes by itself, in its own time.
            if ids == set(self.checkpoints) | (ids & set(self.deferred)) or time.monotonic() > until:
                break
            time.sleep(0.2)
        if ids != set(self.checkpoints) | (ids & set(self.deferred)):
            raise Violation(f"listed are {sorted(ids)}, should be {sorted(self.checkpoints)}")
        for gone in set(self.deferred) - ids:
            del self.deferred[gone]
        for name, expected in self.checkpoints.items():
            self.check_checkpoint(name, expected)
        for vm in self.vms:
            found = [read_word(top, "qcow2", self.copy) for top in vm.tops()]
            if found != vm.words:
                raise Violation(f"{vm.name} holds {found}, should hold {vm.words}")

    def check_checkpoint(self, name, expected):
        reply, reason = call("GetCheckpoint", f"checkpoint_id:'{name}'")
        if reason:
            raise Violation(f"GetCheckpoint: {json.dumps(reply)}")
        checkpoint = reply["checkpoint"]
        if not checkpoint["enabled"]:
            raise Violation(f"checkpoint {name} of {expected.vm.name} is not enabled: {checkpoint['disabledReason']}")
        found = [read_word(d["sealedFile"], "qcow2", self.copy) for d in checkpoint["disks"]]
        if found != expected.words:
            raise Violation(f"checkpoint {name} of {expected.vm.name} holds {found}, should hold {expected.words}")

    def oracle(self):
        for vm in self.vms:
            state = vm.state()
            done = subprocess.run([f"{INTEGRATION}/oracle", "--support", SUPPORT, DIR, vm.name, state],
                                  capture_output=True, text=True)
            wrong = [line for line in done.stdout.splitlines() if "CHECKPOINT_STATE_DELETING" not in line or
                     not self.deferred]
            if done.returncode and (wrong or not done.stdout):
                raise Violation("; ".join(wrong) or done.stderr)


class Action:
    def __init__(self, line):
        words = re.findall(r"\w+", line)
        self.kind = words[0]
        self.a, self.b, self.c, self.d = (int(w.rstrip("u")) for w in words[1:5])
        self.drawn = next(((words[i], int(words[i + 1])) for i in range(5, len(words)) if words[i] in FAULTS), None)

    def fault(self):
        return self.drawn or (None, 0)


def main():
    world = World()
    for vm in world.vms:
        world.start(vm)
    for number, line in enumerate(sys.stdin):
        action = Action(line)
        act = getattr(world, action.kind.lower(), None)
        vm = world.vms[action.a % len(world.vms)]
        if not act:
            act = world.act_restore  # of what only the simulated world has, nothing is drawn too often
        say(f"{number}: {action.kind} {vm.name}")
        try:
            act(vm, action)
            if act not in (world.act_write, world.act_configure):
                world.check()
                world.oracle()
        except Violation as violation:
            say(f"VIOLATION at {number} ({action.kind}): {violation}")
            return 1
    say(f"{world.mutations} mutations, {world.refusals} of them refused or failed, {world.faults} faults, "
        f"{world.boots} boots, {len(world.checkpoints)} checkpoints left, 0 violations")
    return 0


sys.exit(main())

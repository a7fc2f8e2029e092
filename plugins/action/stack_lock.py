# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lock a stack against concurrent runs."""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

DIRECTORY = "/run/quantops"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
#: Seconds between two renewals, and after which a lock that nobody renewed is free.
RENEWAL, LEASE = 20, 90
#: Seconds between two looks at the run that holds the lock.
WATCH = 0.5
#: Seconds between two attempts of a run that waits.
PAUSE = 3

# One step under a lock of the kernel. Prints "taken", "held" if the same run has it, "free", or whose the lock is: its
# age in seconds, this machine, the start of the owner's process if it is one of this machine, and what the owner wrote.
TAKE = r"""
umask 077
mkdir -p {directory} || exit 1
exec 9< {directory} || exit 1
flock -w 10 9 || exit 1
machine="$(cat /proc/sys/kernel/random/boot_id) $(readlink /proc/self/ns/pid)"
if [ -s {file} ] && [ "$(cat {file})" != {expected} ] && [ "$(cat {file})" != {own} ]; then
    echo "$(($(date +%s) - $(stat -c %Y {file})))"
    echo "$machine"
    pid=$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' {file})
    sed 's/.*) //' "/proc/$pid/stat" 2> /dev/null | grep -v '^[ZX]' | cut -d ' ' -f 20 | grep . || echo -
    cat {file}
elif [ -n {own} ]; then
    word=taken
    [ "$(cat {file} 2> /dev/null)" != {own} ] || word=held
    printf '%s\n' {own} > {file}.new && mv {file}.new {file} && echo "$word"
else
    echo free
fi
"""
# Ends what a run that held the lock, and was killed, has left at work, and prints the names. Where no engine runs,
# nothing does.
END = r"""
left() {
    timeout 30 docker ps --filter label=quantops.stack={stack} --filter label=quantops.lock={name} \
        --format '{{.Names}}' 2> /dev/null
}
names=$(left) || [ $? -ne 124 ] || exit 124
[ -n "$names" ] || exit 0
echo "$names"
timeout 120 docker stop --time 60 $names > /dev/null 2>&1
names=$(left) && [ -z "$names" ]
"""
RENEW = r'[ "$(cat {file} 2> /dev/null)" = {own} ] && touch {file}'
RELEASE = r'exec 9< {directory} && flock -w 10 9 && [ "$(cat {file} 2> /dev/null)" = {own} ] && rm -f {file}'


def started(pid: int) -> str:
    """Find out when a process was started, which tells it from a later one with the same number.

    Args:
        pid: Its number.

    Returns:
        The kernel's ticks, or a date where there is no /proc; nothing if there is no such process.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
        return "" if state in "ZX" else fields[18]  # who is dead, and not yet waited for, holds nothing
    except (OSError, ValueError, IndexError):
        if Path("/proc/self").exists():
            return ""
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()


@functools.cache
def machine() -> str:
    """Identify this machine, and among its containers this one, until its next boot.

    Returns:
        A text that no other machine has.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def owner_of(pid: int) -> dict[str, Any]:
    """Describe a run.

    Args:
        pid: Process of `ansible-playbook`.

    Returns:
        What is written into the lock. It is the same in every task of the run.
    """
    begun = started(pid)
    with contextlib.suppress(Exception):  # a user without a name
        return {**_who(), "pid": pid, "started": begun, "machine": machine()}
    return {"user": str(os.getuid()), "controller": platform.node(), "pid": pid, "started": begun, "machine": machine()}


def _who() -> dict[str, Any]:
    playbooks = [os.path.basename(str(each)) for each in context.CLIARGS.get("args") or ()]
    return {
        "user": os.environ.get("SUDO_USER") or getpass.getuser(),
        "controller": platform.node(),
        "playbook": " ".join(playbooks),
    }


def sentence(owner: dict[str, Any], stack: str, host: str, name: str = "stack") -> str:
    """Say who holds a lock.

    Args:
        owner: What the lock holds.
        stack: Name of the stack.
        host: Name of the host.
        name: Of the lock.

    Returns:
        Who, from where, with what and since when.
    """
    who = f"{owner.get('user', 'Somebody')} on {owner.get('controller', 'another machine')}"
    what = f"{owner.get('playbook') or 'a playbook'} (process {owner.get('pid', '?')})"
    does = "is changing the stack" if name == "stack" else f"runs a {name} of the stack"
    return f"{who} {does} {stack} on {host}: {what}, since {owner.get('since', '?')}."


def is_gone(age: int, host_machine: str, host_started: str, owner: dict[str, Any]) -> bool:
    """Judge whether the run that holds a lock has ended without giving it back.

    Args:
        age: Seconds since it was taken or renewed.
        host_machine: ``machine()`` of the host.
        host_started: Start of the owner's process, if the host has one of this number.
        owner: What the lock holds.

    Returns:
        True at once where the owner's process can be looked for, on the host or here; elsewhere after `LEASE`.
    """
    where, begun = owner.get("machine"), str(owner.get("started"))
    if where == host_machine:
        return host_started != begun
    if where == machine():
        pid = int(owner.get("pid", 0))
        now = started(pid)
        if now or not _hidden(pid):
            return now != begun
    # A lock of the future was renewed before somebody set the clock back.
    return not -LEASE <= age <= LEASE


def _hidden(pid: int) -> bool:
    """Tell whether a process is there that another user may not look at."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        pass
    return False


class ActionModule(ActionBase):
    """Takes the lock of a stack on a host, for as long as this run of Ansible lives."""

    _requires_connection = True

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Take the lock, or say who has it.

        Args:
            tmp: Unused.
            task_vars: Variables of the task.

        Returns:
            ``taken``, or a failure that names the owner. In check mode a warning is all.
        """
        result = super().run(tmp, task_vars)
        stack, wait = str(self._task.args["stack"]), float(self._task.args.get("wait") or 0)
        name = str(self._task.args.get("name") or "stack")
        if not NAME.fullmatch(stack) or not NAME.fullmatch(name):
            return {**result, "failed": True, "msg": f"stack_name is {stack!r}, which cannot be locked."}
        self.locked = {"stack": stack, "name": name}
        self.file = f"{DIRECTORY}/{stack}.lock" if name == "stack" else f"{DIRECTORY}/{stack}.{name}.lock"
        host = (task_vars or {}).get("inventory_hostname", "this host")
        pid = os.getppid()
        owner = owner_of(pid)
        local = self._connection.transport == "local"
        end = time.monotonic() + wait
        own, expected, renewed = "" if self._task.check_mode else self.text(owner), "", False
        while True:
            answer = self._low_level_execute_command(self.command(TAKE, own, expected), executable="/bin/sh")
            lines = answer["stdout"].strip().splitlines()
            if answer["rc"] or not lines:
                said = (answer["stderr"] or answer["stdout"]).strip()
                hint = "Run the playbook with become (sudo)."
                return {**result, "failed": True, "msg": f"{self.file} cannot be written on {host}: {said} {hint}"}
            if lines[-1] in ("taken", "held", "free"):
                # Two tasks within a second write the same: the first one's process renews the lock already.
                renewed = renewed or lines[-1] == "held"
                break
            age, host_machine, host_started, text = int(lines[0]), lines[1], lines[2], "\n".join(lines[3:])
            try:
                other = json.loads(text)
            except ValueError:
                other = {}  # what was written by half, or by hand
            if self.same(other, owner):
                own, renewed = text, True  # taken by an earlier task
            elif self._task.check_mode and is_gone(age, host_machine, host_started, other):
                break
            elif is_gone(age, host_machine, host_started, other):
                expected = text
            elif self._task.check_mode:
                Display().warning(f"{sentence(other, stack, host, name)} Differences below may be part of that run.")
                return {**result, "changed": False, "taken": False, "ended": []}
            elif time.monotonic() > end:
                msg = (
                    f"{sentence(other, stack, host, name)} Nothing was changed. Run again when it has ended, or with -e"
                    f" stack_lock_wait=SECONDS to wait for it. If that run is dead, the lock is free {LEASE} s later."
                )
                return {**result, "failed": True, "msg": msg}
            else:
                time.sleep(PAUSE)
        if own and not local and not renewed:
            self.keep(pid, owner["started"], own)
        ended: list[str] = []
        if own and lines[-1] == "taken":
            answer = self._low_level_execute_command(self.command(END, own), executable="/bin/sh")
            ended = answer["stdout"].split()
            if answer["rc"] == 124:
                msg = f"The engine on {host} does not answer, so what an interrupted run left at work is not known."
                return {**result, "failed": True, "msg": f"{msg} Nothing was changed."}
            if answer["rc"]:
                msg = f"{', '.join(ended)}, left by an interrupted run, is still at work on {host} and does not end."
                return {**result, "failed": True, "msg": f"{msg} Nothing was changed."}
            if ended:
                Display().warning(f"Ended {', '.join(ended)} on {host}, which an interrupted run left at work.")
        return {**result, "changed": bool(ended), "taken": bool(own), "ended": ended}

    @staticmethod
    def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
        """Tell whether two descriptions are of the same run.

        Args:
            one: A description.
            other: Another.

        Returns:
            Whether they are.
        """
        return all(one.get(key) == other.get(key) for key in ("machine", "pid", "started"))

    @staticmethod
    def text(owner: dict[str, Any]) -> str:
        """Write an owner down.

        Args:
            owner: A description.

        Returns:
            One line of JSON, with the time.
        """
        return json.dumps({**owner, "since": time.strftime("%Y-%m-%d %H:%M:%S %Z")})

    def command(self, script: str, own: str, expected: str = "") -> str:
        """Fill in a script.

        Args:
            script: One of this module's.
            own: What this run writes into the lock.
            expected: What is there now, and may be replaced.

        Returns:
            Text for a shell.
        """
        words = {"directory": DIRECTORY, "file": self.file, "own": own, "expected": expected} | self.locked
        filled = script
        for name, value in words.items():
            filled = filled.replace("{" + name + "}", shlex.quote(value))
        return filled

    def keep(self, pid: int, begun: str, own: str) -> None:
        """Renew the lock from a process of its own for as long as the run lives, and give it back then.

        A task ends long before the run does, and an image is built in one task for minutes: neither can renew it.

        Args:
            pid: Process of `ansible-playbook`.
            begun: When that was started.
            own: What this run has written into the lock.
        """
        if os.fork():
            return
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            # The pipes to Ansible, and to whoever reads its output, must not wait for this process.
            os.closerange(3, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 65536 else 65536)
            Display.display = lambda *_args, **_more: None  # type: ignore[method-assign]
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            with contextlib.suppress(AttributeError):
                self._play_context.connection_lockfd = os.open(os.devnull, os.O_RDWR)
            renewed = time.monotonic()
            while started(pid) == begun:
                time.sleep(WATCH)
                if time.monotonic() - renewed >= RENEWAL:
                    renewed = time.monotonic()
                    with contextlib.suppress(Exception):  # a connection that is away for a moment
                        if self._low_level_execute_command(self.command(RENEW, own), executable="/bin/sh")["rc"] == 1:
                            os._exit(0)
            with contextlib.suppress(Exception):
                self._low_level_execute_command(self.command(RELEASE, own), executable="/bin/sh")
        finally:
            os._exit(0)

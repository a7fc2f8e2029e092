# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Commands on hosts whose input or output is a stream: Ansible's own connections keep all of it in memory."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.action import ActionBase

#: Printed by a command of ours before anything of its own.
READY = b"QUANTOPS-READY\n"
#: Seconds in which a command has to begin.
BEGIN = 60.0
#: Bytes that are passed on at a time.
BLOCK = 1 << 18


class HostStream:
    """A command that runs on a host, with its input and output as pipes of this process."""

    def __init__(self, argv: list[bytes], what: str, answer: Callable[[bytes], bytes]) -> None:
        """Start it, and wait until it has begun.

        Args:
            argv: Program of this machine that runs it there.
            what: Names it in errors.
            answer: Gets what was printed so far; returns what a question in it is answered with, such as a password.

        Raises:
            AnsibleActionFail: If it does not begin.
        """
        self.what = what
        self.errors: list[bytes] = []
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, close_fds=True
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.input, self.output = self.process.stdin, self.process.stdout
        try:
            self._begin(answer)
        except BaseException:
            self.kill()
            raise

    def _begin(self, answer: Callable[[bytes], bytes]) -> None:
        assert self.process.stderr
        said, printed, answered = b"", b"", False
        end = time.monotonic() + BEGIN
        open_ones = [self.output, self.process.stderr]
        while not printed.endswith(READY):
            left = end - time.monotonic() if self.output in open_ones else 0
            ready = select.select(open_ones, [], [], max(left, 0))[0]
            if not ready:
                words = to_text(said + printed).strip() or f"no answer within {BEGIN:.0f} s"
                raise AnsibleActionFail(f"{self.what} did not start: {words}")
            for each in ready:
                # The output byte by byte: what follows the mark belongs to the stream.
                piece = os.read(each.fileno(), 1 if each is self.output else BLOCK)
                if not piece:
                    open_ones.remove(each)
                elif each is self.output:
                    printed += piece
                    if printed.endswith(READY):
                        break
                else:
                    said += piece
            reply = b"" if answered else answer(said + printed)
            if reply:
                answered = True
                self.input.write(reply)
        self.errors.append(said)
        # Read as it comes: a full pipe would stop the command, and with it the stream.
        self.reader = threading.Thread(target=self._read_errors, daemon=True)
        self.reader.start()

    def _read_errors(self) -> None:
        assert self.process.stderr
        with contextlib.suppress(OSError, ValueError):
            while piece := self.process.stderr.read(BLOCK):
                self.errors.append(piece)

    def finish(self) -> tuple[int, str]:
        """Wait until the command ends.

        Returns:
            Its exit status, and what it wrote to its standard error.
        """
        with contextlib.suppress(OSError):
            self.input.close()
        status = self.process.wait()
        self.reader.join()
        return status, to_text(b"".join(self.errors)).strip()

    def kill(self) -> None:
        """End the command's process on this machine, and close its pipes."""
        with contextlib.suppress(OSError):
            self.process.kill()
        for pipe in (self.input, self.output, self.process.stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process.wait()


class Hosts:
    """Opens streams to hosts, as Ansible connects to them."""

    def __init__(self, action: ActionBase, task_vars: Mapping[str, Any]) -> None:
        """Take over the task.

        Args:
            action: The action plugin that asks.
            task_vars: Variables of its task.
        """
        self.action, self.task_vars = action, task_vars
        self.connections: dict[str, Any] = {task_vars["inventory_hostname"]: action._connection}

    def connection(self, host: str) -> Any:
        """Connect to a host.

        Args:
            host: Its name in the inventory.

        Returns:
            A connection of the kind that the inventory names, with the same way to another user as this task's.
        """
        if host not in self.connections:
            action, variables = self.action, self.task_vars["hostvars"][host]
            kind = variables.get("ansible_connection") or action._task.connection or "ssh"
            play_context = action._play_context.copy()
            play_context.remote_addr = variables.get("ansible_host") or host
            loader = action._shared_loader_obj
            connection = loader.connection_loader.get(
                kind, play_context, new_stdin=None, task_uuid=action._task._uuid, ansible_playbook_pid=str(os.getppid())
            )
            keys = {key: value for key, value in action._task.dump_attrs().items() if key not in ("retries", "timeout")}
            keys["timeout"] = play_context.timeout
            if play_context.password:
                keys["password"] = play_context.password
            connection.set_options(task_keys=keys, var_options=self._options("connection", connection, variables))
            if action._connection.become:
                method = variables.get("ansible_become_method") or action._task.become_method or C.DEFAULT_BECOME_METHOD
                become = loader.become_loader.get(method)
                if play_context.become_pass:
                    keys["become_pass"] = play_context.become_pass
                become.set_options(task_keys=keys, var_options=self._options("become", become, variables))
                connection.set_become_plugin(become)
            self.connections[host] = connection
        return self.connections[host]

    def _options(self, kind: str, plugin: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
        names = C.config.get_plugin_vars(kind, plugin._load_name)
        return {name: self.action._templar.template(variables[name]) for name in names if name in variables}

    def open(self, host: str, command: str) -> HostStream:
        """Start a command on a host.

        Args:
            host: Its name in the inventory.
            command: For a POSIX shell.

        Returns:
            The running command. It is root's, or whoever's the task becomes.

        Raises:
            AnsibleActionFail: If the kind of connection can carry no stream, or the command does not begin.
        """
        connection = self.connection(host)
        kind = connection.transport.rsplit(".", 1)[-1]
        text = f"printf '%s\\n' {shlex.quote(READY.decode().strip())}; {command}"
        become = connection.become
        login = self._option(connection, "remote_user") or ("root" if kind == "docker" else "")
        if become and become.get_option("become_user") != login:
            text = become.build_become_command(f"/bin/sh -c {shlex.quote(text)}", connection._shell)
        else:
            become = None
        if kind == "local":
            argv = [b"/bin/sh", b"-c", to_bytes(text)]
        elif kind == "docker":
            connection._connect()
            argv = [to_bytes(word) for word in connection._build_exec_cmd([b"/bin/sh", b"-c", to_bytes(text)])]
        elif kind == "ssh":
            argv = self._ssh(connection, text)
        else:
            raise AnsibleActionFail(
                f"Images cannot be sent through the connection {connection.transport} of {host}; ssh, local and"
                " community.docker.docker can. Use one of them, or set container_image_registry."
            )

        def answer(said: bytes) -> bytes:
            password = become.get_option("become_pass") if become else None
            return to_bytes(password) + b"\n" if password and become.check_password_prompt(said) else b""

        return HostStream(argv, f"A command on {host}", answer)

    @staticmethod
    def _option(plugin: Any, name: str) -> str:
        try:
            return str(plugin.get_option(name) or "")
        except KeyError:
            return ""

    @staticmethod
    def _ssh(connection: Any, text: str) -> list[bytes]:
        # In its own way first: where that needs a password, what follows shares its connection.
        status, _output, errors = connection.exec_command("true", sudoable=False)
        if status != 0:
            raise AnsibleActionFail(f"{connection.get_option('host')} cannot be reached: {to_text(errors).strip()}")
        program = connection.get_option("ssh_executable")
        argv = connection._build_command(program, "ssh", "-o", "BatchMode=yes", "-T", connection.host, text)
        return argv[argv.index(to_bytes(program)) :]

    def run(self, host: str, command: str) -> str:
        """Run a command on a host to its end.

        Args:
            host: Its name in the inventory.
            command: For a POSIX shell.

        Returns:
            What it printed.

        Raises:
            AnsibleActionFail: If it fails, with what it said.
        """
        stream = self.open(host, command)
        stream.input.close()
        output = b"".join(iter(lambda: os.read(stream.output.fileno(), BLOCK), b""))
        status, errors = stream.finish()
        if status != 0:
            raise AnsibleActionFail(f"On {host}, {command.split(' --')[0]} failed: {errors or to_text(output).strip()}")
        return to_text(output)


def pass_on(source: HostStream, target: HostStream) -> int:
    """Pass the output of one command on as the input of another, until one of them ends.

    Args:
        source: Its output is read.
        target: Its input is written.

    Returns:
        Bytes passed on.
    """
    passed = 0
    with contextlib.suppress(BrokenPipeError):
        while piece := os.read(source.output.fileno(), BLOCK):
            view = memoryview(piece)
            while view:
                written = os.write(target.input.fileno(), view)
                view = view[written:]
                passed += written
    with contextlib.suppress(OSError):
        target.input.close()
    return passed

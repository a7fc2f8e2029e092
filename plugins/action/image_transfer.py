# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Send images from one host's engine to another's in one stream, past this machine's disk."""

from __future__ import annotations

import json
import shlex
import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.host_streams import Hosts, pass_on
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.images import different_images, room_problem

FACTS = '{"id": {{json .Id}}, "size": {{.Size}}, "layers": {{json .RootFS.Layers}}}'
#: Prints the free bytes where an engine keeps images, and unpacks them.
ROOM = "df --output=avail -B1 \"$(docker info --format '{{.DockerRootDir}}')\" | tail -n 1"


class ActionModule(ActionBase):
    """Runs for the host that lacks images; the other host need not be part of the play."""

    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send what differs.

        Args:
            tmp: Unused.
            task_vars: Variables of the task.

        Returns:
            What the module of the same name documents.

        Raises:
            AnsibleActionFail: If the source lacks an image, the host lacks room, or what arrived is not what was sent.
        """
        result = super().run(tmp, task_vars)
        assert task_vars is not None
        host, source = task_vars["inventory_hostname"], str(self._task.args["source"])
        wanted = [str(image) for image in self._task.args["images"]]
        timeout = int(self._task.args.get("timeout") or 3600)
        self.hosts = Hosts(self, task_vars)
        offered = self.images(source, wanted)
        if self._task.check_mode and wanted != list(offered):
            return result | {"changed": True, "images": wanted, "bytes": 0, "seconds": 0.0}
        if lost := sorted(set(wanted) - offered.keys()):
            raise AnsibleActionFail(f"{source} no longer has {', '.join(lost)}: run this again.")
        sent = different_images(offered, self.images(host, wanted))
        result |= {"changed": bool(sent), "images": sent, "bytes": 0, "seconds": 0.0}
        if not sent or self._task.check_mode:
            return result
        problem = room_problem(
            host, sum(offered[ref]["size"] for ref in sent), int(self.hosts.run(host, ROOM).strip() or 0), sent
        )
        if problem:
            raise AnsibleActionFail(problem)
        begun = time.monotonic()
        passed = self.stream(source, host, sent, timeout)
        if wrong := different_images(offered, self.images(host, sent)):
            raise AnsibleActionFail(f"{host} has other images than {source} after the transfer: {', '.join(wrong)}.")
        return result | {"bytes": passed, "seconds": round(time.monotonic() - begun, 1)}

    def images(self, host: str, wanted: list[str]) -> dict[str, dict[str, Any]]:
        """Look images up.

        Args:
            host: Whose engine is asked.
            wanted: Their references.

        Returns:
            Reference to ``id``, ``size`` in bytes and ``layers``, of those that it has.
        """
        # One by one: with several, the client prints nothing of those after one that it does not find.
        looks = "; ".join(
            f"facts=$(docker image inspect --format {shlex.quote(FACTS)} {shlex.quote(ref)} 2> /dev/null)"
            f' && echo {shlex.quote(ref)} "$facts"'
            for ref in wanted
        )
        lines = self.hosts.run(host, f"{looks}; true").splitlines()
        return {ref: json.loads(text) for ref, _space, text in (line.partition(" ") for line in lines)}

    def stream(self, source: str, host: str, sent: list[str], timeout: int) -> int:
        """Send images in one stream.

        Args:
            source: Host that has them.
            host: Host that lacks them.
            sent: Their references.
            timeout: Seconds that it may take.

        Returns:
            Bytes sent.
        """
        # The end of a killed run is no end of a stream through a container's engine: what is left ends by itself.
        names = " ".join(map(shlex.quote, sent))
        packs = all(
            "yes" in self.hosts.run(each, "command -v zstd > /dev/null && echo yes; true") for each in (source, host)
        )
        saves = f"docker save {names}" + (" | zstd -1 --threads=0 --quiet --stdout" if packs else "")
        loads = ("zstd --decompress --quiet --stdout | " if packs else "") + "docker load --quiet"
        ending = self.hosts.open(host, f"exec timeout {timeout} bash -o pipefail -c {shlex.quote(loads)}")
        try:
            beginning = self.hosts.open(source, f"exec timeout {timeout} bash -o pipefail -c {shlex.quote(saves)}")
        except BaseException:
            ending.kill()
            raise
        try:
            passed = pass_on(beginning, ending)
            told = ending.finish()
            beginning.output.close()
            said = beginning.finish()
        except BaseException:
            beginning.kill()
            ending.kill()
            raise
        for name, (status, words) in ((source, said), (host, told)):
            if status != 0:
                late = f" It did not end within {timeout} s." if status == 124 else ""
                raise AnsibleActionFail(
                    f"Sending {', '.join(sent)} from {source} to {host} failed on {name} after {passed >> 20} MiB"
                    f" (status {status}).{late} {words}".strip()
                )
        return passed

# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep the addresses and keys of the hosts of a mesh on the controller, as whoever runs Ansible."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils import mesh

ARGUMENT_SPEC: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "subnet": {"type": "str", "required": True},
    "hosts": {"type": "dict", "required": True},
    "host": {"type": "str", "required": True},
    "restore": {"type": "dict", "no_log": True},
}


class ActionModule(ActionBase):
    """Does what the module of the same name documents."""

    _requires_connection = False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Keep the records.

        Args:
            tmp: Unused.
            task_vars: Variables of the task.

        Returns:
            The module's result.
        """
        result = super().run(tmp, task_vars)
        _result, params = self.validate_argument_spec(ARGUMENT_SPEC)
        write = not self._task.check_mode
        try:
            if params["restore"] is not None:
                new = mesh.restore(params["path"], params["restore"], write)
                return result | {"changed": bool(new), "new": new}
            found, new = mesh.keep(params["path"], params["subnet"], list(params["hosts"]), write)
            known = {}
            for host, member in found.items():
                if member.address != params["hosts"][host]["address"]:
                    raise mesh.MeshError(
                        f"{host} was given the address {member.address} by another run meanwhile. Run this again."
                    )
                known[host] = {"address": member.address, "public_key": member.public_key}
        except mesh.MeshError as error:
            return result | {"failed": True, "msg": str(error)}
        own = found[params["host"]]
        return result | {
            "changed": bool(new),
            "new": new,
            "address": own.address,
            "private_key": own.private_key,
            "peers": mesh.peers(params["host"], params["hosts"], known),
        }

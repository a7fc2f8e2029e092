# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""List the images of other hosts, over the connection that Ansible has to each."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.host_streams import Hosts

ARGUMENT_SPEC: dict[str, Any] = {"hosts": {"type": "list", "elements": "str", "required": True}}
LIST = "docker image ls --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}'"


class ActionModule(ActionBase):
    """Does what the module of the same name documents.

    Not a task with ``delegate_to``: there, a variable such as ``ansible_host: "{{ inventory_hostname }}.example"`` has
    the name of the host that asks, which would then answer for the other one.
    """

    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask each host.

        Args:
            tmp: Unused.
            task_vars: Variables of the task.

        Returns:
            The module's result.
        """
        result = super().run(tmp, task_vars)
        assert task_vars is not None
        _result, params = self.validate_argument_spec(ARGUMENT_SPEC)
        hosts = Hosts(self, task_vars)
        images, silent = {}, {}
        for host in params["hosts"]:
            try:
                images[host] = dict(line.rsplit(" ", 1) for line in hosts.run(host, LIST).splitlines())
            except AnsibleError as error:
                silent[host] = str(error)
        return result | {"changed": False, "images": images, "silent": silent}

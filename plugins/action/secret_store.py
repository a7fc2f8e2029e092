# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep the secrets on the controller, as whoever runs Ansible, without a process of a module's own."""

from __future__ import annotations

from typing import Any

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.quantops.ibkr_stack.plugins.modules.secret_store import (
    ARGUMENT_SPEC,
    SecretError,
    keep,
    restore,
)


class ActionModule(ActionBase):
    """Does what the module of the same name documents."""

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Keep the secrets.

        Args:
            tmp: Unused.
            task_vars: Variables of the task.

        Returns:
            The module's result.
        """
        result = super().run(tmp, task_vars)
        if C.DEFAULT_DEBUG:
            Display().warning(
                "ANSIBLE_DEBUG is set: Ansible prints the arguments of every module, secrets of tasks with no_log too."
                " Keep this output, and the file of ANSIBLE_LOG_PATH, from others."
            )
        _result, params = self.validate_argument_spec(ARGUMENT_SPEC)
        try:
            work = keep if params["restore"] is None else restore
            result.update(work(params, self._task.check_mode))
        except SecretError as error:
            result.update(failed=True, msg=str(error))
        return result

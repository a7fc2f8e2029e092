# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Replace secrets on the controller, as whoever runs Ansible, without losing any."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import missing_required_lib
from ansible.plugins.action import ActionBase
from ansible_collections.quantops.ibkr_stack.plugins.modules.secret_store import SecretError
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.rotation import Journal

ARGUMENT_SPEC: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "step": {"choices": ["look", "begin", "replace", "reencrypted", "end"], "default": "look"},
    "secrets": {"type": "dict", "default": {}, "no_log": False},
    "tls_names": {"type": "list", "elements": "str", "default": ["localhost"]},
}


class ActionModule(ActionBase):
    """Does what the module of the same name documents."""

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Take one step.

        Args:
            tmp: Unused.
            task_vars: Variables of the task.

        Returns:
            The module's result.
        """
        result = super().run(tmp, task_vars)
        _result, params = self.validate_argument_spec(ARGUMENT_SPEC)
        journal, step, changed = Journal(params["path"]), params["step"], False
        try:
            if not self._task.check_mode:
                if step == "begin":
                    journal.begin(params["secrets"], params["tls_names"])
                    changed = True
                elif step in ("replace", "reencrypted"):
                    changed = bool(journal.replace(params["secrets"], final=step == "reencrypted"))
                elif step == "end":
                    changed = bool(journal.names())
                    journal.end()
            names = journal.names()
            former = {name: journal.values(name)[0] for name in names}
            result.update(changed=changed, unfinished=names, since=journal.since(), former=former)
        except ImportError:
            result.update(failed=True, msg=missing_required_lib("cryptography"))
        except SecretError as error:
            result.update(failed=True, msg=str(error))
        except OSError as error:
            result.update(failed=True, msg=f"The secrets cannot be rotated in {params['path']}: {error}")
        return result

# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Wait in slices, so that the person who waits is told what is awaited."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

MODULE = "quantops.ibkr_stack.container_wait"
SLICE = 10  # seconds between two lines
display = Display()


class ActionModule(ActionBase):
    """Runs the module of the same name until nothing is awaited or O(timeout) is over."""

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Wait.

        Args:
            tmp: Unused.
            task_vars: Variables of the task.

        Returns:
            The module's last result.
        """
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        timeout = int(args.get("timeout", 300))
        started = time.monotonic()
        while True:
            left = timeout - (time.monotonic() - started)
            args.update(slice=int(max(1, min(SLICE, left))), final=left <= SLICE)
            result.update(self._execute_module(module_name=MODULE, module_args=args, task_vars=task_vars))
            if result.get("failed") or not result.get("waiting"):
                return result
            args["restarts"] = result["restarts"]
            display.display(f"    … {time.monotonic() - started:.0f} s: {result['progress']}")

# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of the modules that run a program in a container."""

from __future__ import annotations


class ModuleDocFragment:
    """Documents what each of them takes."""

    DOCUMENTATION = r"""
options:
  stdin:
    description: Input of the program. It is never logged.
    type: str
    default: ""
  timeout:
    description: Seconds that the program may take. It is ended then, with its container if that is its own, and the
      task fails.
    type: int
    default: 300
  expected:
    description: Exit statuses that are no failure; an empty list for any.
    type: list
    elements: int
    default: [0]
attributes:
  check_mode: {support: none, description: The program is not run.}
"""

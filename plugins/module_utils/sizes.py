# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads sizes as Docker writes them."""

from __future__ import annotations

import re
from typing import Any

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", re.IGNORECASE)
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def size_in_bytes(value: Any) -> int:
    """Read a size.

    Takes what Docker itself takes, as sizes go on to it as they are: Ansible's ``human_to_bytes`` refuses ``512mb``
    and takes ``1 megabyte``.

    Args:
        value: A number of bytes or a text such as ``512m`` or ``1g``.

    Returns:
        Bytes.

    Raises:
        ValueError: If it is not a size.
    """
    match = SIZE.fullmatch(str(value))
    if not match:
        raise ValueError(f"{value!r} is not a size, expected one such as 512m or 1g")
    return int(float(match[1]) * UNITS[match[2].lower()])

#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Send images from one host's engine to another's in one stream."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_transfer
short_description: Send images from another host
description:
  - Compares images of this host with those of another one, and sends those that are missing or different in one
    compressed stream through the machine that runs Ansible, which stores nothing of it.
  - Images are the same if their ids are, or their layers where the two engines keep images in different stores.
  - Uses the connections that Ansible has to both hosts, of the kinds P(ansible.builtin.ssh#connection),
    P(ansible.builtin.local#connection) and P(community.docker.docker#connection). The stream is compressed where
    both hosts have C(zstd).
  - A transfer that is killed leaves no image behind; the next run sends all of it again.
options:
  source:
    description: Name of the other host in the inventory. It need not be part of the play.
    type: str
    required: true
  images:
    description: References of the images.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds that the transfer may take.
    type: int
    default: 3600
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Get the images of Redis
  quantops.ibkr_stack.image_transfer:
    source: data1
    images: ["quantops/redis:0f20799fc0f82d18"]
"""

RETURN = r"""
images:
  description: References of the images that were sent, or in check mode would be.
  returned: always
  type: list
  elements: str
bytes:
  description: Compressed bytes sent.
  returned: always
  type: int
seconds:
  description: Seconds that the transfer took.
  returned: always
  type: float
"""

#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Replace secrets on the controller without losing any; done by the action plugin of the same name."""

DOCUMENTATION = r"""
module: secret_rotation
short_description: Replace secrets on the controller without losing any
description:
  - Generates new values of secrets, puts them in the place of the old ones, and forgets the old ones, in three steps.
    Until the last one, the directory C(.rotation) below O(path) holds the old and the new values, so that a rotation
    that was interrupted is completed with the same values.
  - Runs on the controller, within Ansible itself. In check mode nothing is written.
options:
  path:
    description: Directory of the secrets.
    type: path
    required: true
  step:
    description: C(look) only returns what an unfinished rotation left. C(begin) generates the values. C(replace) writes
      them to the files of the secrets; a Fernet key is followed by the old one, with a comma between them.
      C(reencrypted) is C(replace) without old Fernet keys. C(end) removes the old values.
    type: str
    choices: [look, begin, replace, reencrypted, end]
    default: look
  secrets:
    description: Name of each secret to rotate to its kind, as for P(quantops.ibkr_stack.secret_store#module).
    type: dict
    default: {}
  tls_names:
    description: Host names and addresses in a generated certificate.
    type: list
    elements: str
    default: [localhost]
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Generate a new password
  quantops.ibkr_stack.secret_rotation:
    path: secrets
    step: begin
    secrets: {flower_password: password}
  no_log: true
"""

RETURN = r"""
unfinished:
  description: Names of the secrets whose rotation has begun and not ended.
  returned: always
  type: list
  elements: str
since:
  description: When it began.
  returned: always
  type: str
former:
  description: Name of each of these to its old value. Use C(no_log).
  returned: always
  type: dict
"""

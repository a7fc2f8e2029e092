#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make directories hold exactly the declared files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: config_tree
short_description: Make directories hold exactly the declared files
description:
  - Writes the files of any number of directories in one call, each atomically, and removes what is not declared there.
  - With O(trees[].exact=false), what is not declared stays.
  - The directory itself is never replaced, only its content, so that a container that mounts it sees the change.
  - Shows differences of I(trees) with C(--diff); never those of I(secret_trees).
options:
  trees:
    description: Directories with readable content.
    type: list
    elements: dict
    default: []
    suboptions: &tree
      path:
        description: Absolute path of the directory.
        type: path
        required: true
      files:
        description: Relative path to content of each file. Content that begins with C(base64:) is decoded.
        type: dict
        required: true
      exact:
        description:
          - Whether files that are not declared are removed, and the directory gets owner and mode.
          - V(false) for files in directories of others, such as C(/etc/systemd/system).
        type: bool
        default: true
      owner:
        description: Numeric user id of the directory and its files.
        type: int
        default: 0
      group:
        description: Numeric group id of the directory and its files.
        type: int
        default: 0
      mode:
        description: Mode of the files; directories get the same with search permission.
        type: str
        default: "0640"
  secret_trees:
    description: Directories with secret content.
    type: list
    elements: dict
    default: []
    suboptions: *tree
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Write the configuration
  quantops.ibkr_stack.config_tree:
    trees:
      - path: /etc/quantops/redis/config
        group: 10002
        files:
          redis.conf: "port 6379\n"
"""

RETURN = r"""
paths:
  description: What was, or in check mode would be, written, removed or given other permissions.
  returned: always
  type: list
  elements: str
reasons:
  description: The same paths with what differs about each; no content of files.
  returned: always
  type: dict
"""

import base64
import contextlib
import os
import stat
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.left_files import (
    PREFIX,
    PREFIX_AMONG_OTHERS,
    remove_left,
)


class Tree:
    """One directory: compares, and unless told only to look, makes it as declared."""

    def __init__(self, declared: dict, secret: bool, check_mode: bool) -> None:
        """Take over a declaration.

        Args:
            declared: Path, files, whether these are all, owner, group and mode.
            secret: Whether content stays out of the differences.
            check_mode: Whether nothing may be written.
        """
        self.path = declared["path"]
        self.owner, self.group = declared["owner"], declared["group"]
        self.mode = int(declared["mode"], 8)
        # who may read a directory's files may also enter it
        self.directory_mode = self.mode | (self.mode & 0o444) >> 2
        self.files = {name: self.decode(text) for name, text in declared["files"].items()}
        self.secret, self.check_mode, self.exact = secret, check_mode, declared["exact"]
        self.prefix = PREFIX if self.exact else PREFIX_AMONG_OTHERS
        self.changed: list[str] = []
        self.reasons: dict[str, list[str]] = {}
        self.diff: list[dict] = []

    @staticmethod
    def decode(text: str) -> bytes:
        """Turn a declared content into bytes.

        Args:
            text: Content, or its base64 form after ``base64:``.

        Returns:
            The file's bytes.
        """
        text = str(text)
        return base64.b64decode(text[7:]) if text.startswith("base64:") else text.encode()

    def note(self, path: str, reason: str, before: bytes | str, after: bytes | str) -> None:
        """Record a change and its difference.

        Args:
            path: What changes.
            reason: What differs, without content.
            before: Content or attributes as they are.
            after: Content or attributes as declared.
        """
        if path not in self.changed:
            self.changed.append(path)
        self.reasons.setdefault(path, []).append(reason)
        if self.secret and isinstance(before, bytes):
            # What is missing has no content, and so no line.
            before, after = ("", "(a secret)\n") if reason == "missing" else ("(a secret)\n", "(another secret)\n")
        texts = [part.decode(errors="replace") if isinstance(part, bytes) else part for part in (before, after)]
        self.diff.append({"before_header": path, "after_header": path, "before": texts[0], "after": texts[1]})

    def attributes(self, path: str, mode: int) -> None:
        """Give a path its owner and mode.

        Args:
            path: File or directory.
            mode: Wanted permission bits.
        """
        try:
            now = os.lstat(path)
        except FileNotFoundError:
            return
        have = (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode))
        want = (self.owner, self.group, mode)
        if have == want:
            return
        before, after = (f"owner {uid} group {gid} mode {bits:04o}" for uid, gid, bits in (have, want))
        self.note(path, f"{before}, declared {after}", f"{before}\n", f"{after}\n")
        if not self.check_mode:
            os.chown(path, self.owner, self.group, follow_symlinks=False)
            os.chmod(path, mode)

    def directory(self, path: str) -> None:
        """Make a directory and its parents exist.

        Args:
            path: Absolute path.
        """
        if os.path.islink(path) or (os.path.exists(path) and not os.path.isdir(path)):
            raise NotADirectoryError(f"{path} is not a directory; move it away")
        if not os.path.isdir(path):
            self.note(path, "missing", "absent\n", "directory\n")
            if not self.check_mode:
                # parents belong to root and let the container's user pass
                os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
                os.mkdir(path, 0o700)
        elif path == self.path and not self.exact:
            return
        self.attributes(path, self.directory_mode)

    def write(self, name: str, content: bytes) -> None:
        """Give a file its content.

        Args:
            name: Path below the directory.
            content: Its bytes.
        """
        path = os.path.join(self.path, name)
        before = b""
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            before = file.read()
        if before != content or not os.path.lexists(path) or os.path.islink(path):
            self.note(path, "content differs" if os.path.lexists(path) else "missing", before, content)
            if not self.check_mode:
                handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=self.prefix)
                try:
                    with os.fdopen(handle, "wb") as file:
                        file.write(content)
                        os.fchown(file.fileno(), self.owner, self.group)
                        os.fchmod(file.fileno(), self.mode)
                        file.flush()
                        os.fsync(file.fileno())
                    os.replace(temporary, path)
                except BaseException:
                    os.unlink(temporary)
                    raise
        self.attributes(path, self.mode)

    def apply(self) -> None:
        """Make the directory as declared."""
        directories = {self.path}
        for name in self.files:
            if os.path.isabs(name) or ".." in name.split("/"):
                raise ValueError(f"{name!r} is outside {self.path}")
            parent = os.path.dirname(name)
            while parent:
                directories.add(os.path.join(self.path, parent))
                parent = os.path.dirname(parent)
        for path in sorted(directories):
            self.directory(path)
        for name, content in sorted(self.files.items()):
            self.write(name, content)
        if not self.exact:
            if not self.check_mode:
                remove_left(Path(self.path), self.prefix)
            return
        for top, below, names in os.walk(self.path, topdown=False):
            for name in names:
                path = os.path.join(top, name)
                if os.path.relpath(path, self.path) not in self.files:
                    self.note(path, "not declared", "present\n", "absent\n")
                    if not self.check_mode:
                        os.unlink(path)
            for name in below:
                path = os.path.join(top, name)
                if os.path.islink(path) or path not in directories:
                    self.note(path, "not declared", "present\n", "absent\n")
                    if not self.check_mode:
                        os.unlink(path) if os.path.islink(path) else os.rmdir(path)


def main() -> None:
    """Entry point."""
    options = {
        "path": {"type": "path", "required": True},
        "files": {"type": "dict", "required": True},
        "exact": {"type": "bool", "default": True},
        "owner": {"type": "int", "default": 0},
        "group": {"type": "int", "default": 0},
        "mode": {"type": "str", "default": "0640"},
    }
    secret = {**options, "files": {"type": "dict", "required": True, "no_log": True}}
    module = AnsibleModule(
        argument_spec={
            "trees": {"type": "list", "elements": "dict", "default": [], "options": options},
            "secret_trees": {"type": "list", "elements": "dict", "default": [], "options": secret, "no_log": False},
        },
        supports_check_mode=True,
    )
    changed: list[str] = []
    reasons: dict[str, list[str]] = {}
    diff: list[dict] = []
    for kind in ("trees", "secret_trees"):
        for declared in module.params[kind]:
            tree = Tree(declared, secret=kind == "secret_trees", check_mode=module.check_mode)
            try:
                tree.apply()
            except (OSError, ValueError) as error:
                module.fail_json(msg=f"{declared['path']}: {error}", paths=changed + tree.changed)
            changed += tree.changed
            reasons.update(tree.reasons)
            diff += tree.diff
    module.exit_json(changed=bool(changed), paths=changed, reasons=reasons, diff=diff)


if __name__ == "__main__":
    main()

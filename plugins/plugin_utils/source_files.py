# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads directories of the controller whose files go to hosts: build contexts, DAGs and configuration."""

from __future__ import annotations

import base64
import fnmatch
import os
import re

from ansible.errors import AnsibleFilterError

COLLECTION = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
#: Bytes of a build context: it travels to the host as an argument.
LARGEST_CONTEXT = 50 * 2**20
#: The name of the directory beside an inventory that holds its secrets; an application's may hold the inventory.
SECRETS = ".secrets"
#: Names that never belong into a context: that one, and what Git, Python, editors (Emacs, Vim, Kate) and macOS leave.
LEFT_OUT = (
    SECRETS,
    *("__pycache__", ".git", ".venv", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".ipynb_checkpoints", ".idea"),
    *("*.py[co]", ".#*", "#*#", "*~", ".*.sw[a-p]", ".*.kate-swp", ".DS_Store", "._*"),
)


def ignore_rules(text: str) -> list[tuple[re.Pattern[str], bool]]:
    """Read a ``.dockerignore``.

    Args:
        text: Its content. Source of the rules: Docker's reference of the file.

    Returns:
        For each line a pattern of relative paths and whether it leaves them out; the last that matches counts.
    """
    rules = []
    for line in text.splitlines():
        line = line.strip()
        out = not line.startswith("!")
        parts = [part for part in line.lstrip("!").split("/") if part not in ("", ".")]
        if not parts or line.startswith("#"):
            continue
        expression = ""
        for position, part in enumerate(parts):
            last = position == len(parts) - 1
            if part == "**":
                expression += ".*" if last else "(?:.*/)?"
                continue
            words = {"*": "[^/]*", "?": "[^/]"}
            expression += "".join(words.get(sign) or re.escape(sign) for sign in part) + ("" if last else "/")
        rules.append((re.compile(rf"{expression}(?:/.*)?"), out))
    return rules


def context_files(directory: str, variable: str = "", kept: str = "Dockerfile") -> dict[str, str]:
    """Read a directory, such as a build context.

    Args:
        directory: Absolute path, or one below the collection.
        variable: Name of the variable that names it, for the error.
        kept: A file that counts whatever is left out.

    Returns:
        Relative path to content; not UTF-8 as ``base64:…``. Symbolic links are followed. Left out are ``LEFT_OUT`` and
        what a ``.dockerignore`` there names.

    Raises:
        AnsibleFilterError: If there is no such directory, it holds something that cannot be read, or all files are more
            than ``LARGEST_CONTEXT``.
    """
    directory = os.path.join(COLLECTION, directory)
    named = f" ({variable})" if variable else ""
    purpose = "" if variable else " to build an image"
    if not os.path.isdir(directory):
        remedy = f", which {variable} names. Correct the path" if variable else " to build an image from"
        raise AnsibleFilterError(f"There is no directory {directory}{remedy}.")
    rules = []
    if os.path.isfile(os.path.join(directory, ".dockerignore")):
        with open(os.path.join(directory, ".dockerignore"), encoding="utf-8") as file:
            rules = ignore_rules(file.read())
    files: dict[str, str] = {}
    size = 0

    def ignored(relative: str) -> bool:
        verdicts = [out for rule, out in rules if rule.fullmatch(relative)]
        return bool(verdicts) and verdicts[-1] and relative != kept

    def refuse(path: str, reason: str) -> AnsibleFilterError:
        return AnsibleFilterError(
            f"{path} cannot be read{purpose}: {reason}. All of {directory}{named} is copied: correct or remove this, "
            "or name it in a .dockerignore there."
        )

    def walk(path: str, relative: str, above: tuple[str, ...]) -> None:
        nonlocal size
        real = os.path.realpath(path)
        if real in above:
            raise refuse(path, f"it is a link to {real}, one of its parent directories")
        try:
            names = sorted(os.listdir(path))
        except OSError as error:
            raise refuse(path, str(error.strerror)) from None
        for name in names:
            inner, below = os.path.join(path, name), os.path.join(relative, name)
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFT_OUT):
                continue
            if os.path.islink(inner) and SECRETS in os.path.realpath(inner).split(os.sep) and not ignored(below):
                raise refuse(inner, f"it is a link to {os.path.realpath(inner)}, among secrets")
            try:
                if os.path.isdir(inner):
                    # A rule with "!" may bring back what lies in an ignored directory; without one it need not be read.
                    if not ignored(below) or kept.startswith(f"{below}/") or not all(out for _rule, out in rules):
                        walk(inner, below, (*above, real))
                    continue
                if ignored(below):
                    continue
                if os.path.islink(inner) and not os.path.exists(inner):
                    raise refuse(inner, f"it is a link to {os.readlink(inner)}, which does not exist")
                if not os.path.isfile(inner):
                    raise refuse(inner, "it is neither a file nor a directory")
                size += os.path.getsize(inner)
                if size > LARGEST_CONTEXT:
                    raise AnsibleFilterError(
                        f"{directory}{named} holds more than {LARGEST_CONTEXT // 2**20} MiB, too much to "
                        f"{'copy' if variable else 'build an image from'}. "
                        "Name what does not belong into it in a .dockerignore there."
                    )
                with open(inner, "rb") as file:
                    content = file.read()
            except OSError as error:
                raise refuse(inner, str(error.strerror)) from None
            files[below] = as_text(content)

    walk(directory, "", ())
    return files


def as_text(content: bytes) -> str:
    """Write bytes as ``config_tree`` reads them.

    Args:
        content: Bytes of a file.

    Returns:
        The text if it is UTF-8, else its base64 form after ``base64:``.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = ""
    if text.startswith("base64:") or (content and not text):
        return "base64:" + base64.b64encode(content).decode()
    return text


def as_bytes(text: str) -> bytes:
    """Read what ``as_text`` wrote.

    Args:
        text: Content, or its base64 form after ``base64:``.

    Returns:
        The file's bytes.
    """
    return base64.b64decode(text[7:]) if text.startswith("base64:") else text.encode()


def python_errors(files: dict[str, str]) -> list[str]:
    """Find Python files that do not compile with the Python that runs Ansible, which may be older than their own.

    Args:
        files: Relative path to content.

    Returns:
        A sentence for each broken file, with its line.
    """
    found = []
    for name, text in sorted(files.items()):
        if name.endswith(".py"):
            try:
                # Bytes, as an encoding may be declared in the file, by a line or a byte-order mark.
                compile(as_bytes(text), name, "exec", dont_inherit=True)
            except (SyntaxError, ValueError) as error:
                found.append(f"{name}, line {getattr(error, 'lineno', '?')}: {getattr(error, 'msg', error)}")
    return found

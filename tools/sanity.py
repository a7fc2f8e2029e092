#!/usr/bin/env python3
"""Run ``ansible-test sanity`` on a copy of this repository, which must lie below ``ansible_collections/quantops``.

Usage: ``tools/sanity.py [--ansible-test PATH] [ARGUMENT…]``; further arguments, such as ``--test pylint``, go to
``ansible-test sanity``.
Exit code: that of ``ansible-test``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Says which pip ``ansible-test`` wants in the environments that it makes.
WANTED_PIP = """
from types import SimpleNamespace
from ansible_test._internal.python_requirements import get_venv_packages
print(get_venv_packages(SimpleNamespace(version='3'))['pip'])
"""
#: Takes the place of get-pip.py, which ``ansible-test`` fetches from a server of its own; PyPI has pip too.
GET_PIP = """
import subprocess
import sys

# A process of its own, as it forgets pip's settings.
subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
packages = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", *packages]))
"""


def copy(target: Path) -> None:
    """Copy what belongs to the repository, committed or not.

    Args:
        target: Directory that is to hold this and nothing else. What has not changed is not written again.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    # The link by which a clone finds itself would make the copy hold itself.
    names = {name for name in listed.split("\0") if name and not name.startswith(".collections/")}
    for path in [path for path in target.rglob("*") if path.is_file() and not {".git", "output"} & {*path.parts}]:
        if str(path.relative_to(target)) not in names:
            path.unlink()
    for name in sorted(names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def environment(ansible_test: Path, home: Path) -> dict[str, str]:
    """Make a home for ``ansible-test``: it keeps its environments there.

    Args:
        ansible_test: The program.
        home: Directory for it.

    Returns:
        Variables to run it with.
    """
    python = ansible_test.parent / "python"
    pip = subprocess.run([python, "-c", WANTED_PIP], check=True, capture_output=True, text=True).stdout.strip()
    script = home / ".ansible" / "test" / "cache" / f"get_pip_{pip.replace('.', '_')}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(GET_PIP, encoding="utf-8")
    # pip's own settings, such as a mirror, hold there too.
    if not (home / ".config").is_symlink():
        (home / ".config").symlink_to(Path.home() / ".config")
    own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return {**own, "HOME": str(home), "PATH": f"{ansible_test.parent}{os.pathsep}{os.environ['PATH']}"}


def main() -> int:
    """Copy and test.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ansible-test", type=Path, default=Path(sys.executable).parent / "ansible-test")
    arguments, more = parser.parse_known_args()
    cache = ROOT / ".cache" / "sanity"
    target = cache / "ansible_collections" / "quantops" / "ibkr_stack"
    target.mkdir(parents=True, exist_ok=True)
    copy(target)
    # A repository of its own: Git ignores all of .cache, and `ansible-test` tests nothing that Git ignores.
    subprocess.run(["git", "init", "--quiet", target], check=True)
    ansible_test = arguments.ansible_test.absolute()
    return subprocess.run(
        [ansible_test, "sanity", "--python", "default", "--color", "no", *more],
        cwd=target, env=environment(ansible_test, cache / "home"), check=False,
    ).returncode  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

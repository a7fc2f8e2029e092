#!/usr/bin/env python3
"""Run ``ansible-test sanity`` on the collection's archive, as Galaxy does.

Usage: ``tools/sanity.py [--ansible-test PATH] [ARGUMENT…]``; further arguments, such as ``--test pylint``, are passed
to ``ansible-test sanity``.
Exit code: that of ``ansible-test``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import archive

CACHE = archive.ROOT / ".cache" / "sanity"
#: Prints the version of Python, and of the pip that ``ansible-test`` expects in the environments that it makes.
VERSIONS = """
import sys
from types import SimpleNamespace
from ansible_test._internal.python_requirements import get_venv_packages
print(*sys.version_info[:2], sep=".")
print(get_venv_packages(SimpleNamespace(version="3"))["pip"])
"""
#: Replaces get-pip.py, which ``ansible-test`` downloads from a server of its own; pip is on PyPI too.
GET_PIP = """
import subprocess
import sys

# In a process of its own, because this one ignores pip's configuration.
subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
packages = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", *packages]))
"""


def environment(ansible_test: Path, home: Path, pip: str) -> dict[str, str]:
    """Prepare a home directory, in which ``ansible-test`` keeps its virtual environments.

    Args:
        ansible_test: The program.
        home: The directory.
        pip: Version of pip that the program expects.

    Returns:
        Variables to run the program with.
    """
    script = home / ".ansible" / "test" / "cache" / f"get_pip_{pip.replace('.', '_')}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(GET_PIP, encoding="utf-8")
    # pip's configuration, such as a mirror, applies there too.
    if not (home / ".config").is_symlink():
        (home / ".config").symlink_to(Path.home() / ".config")
    own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return {**own, "HOME": str(home), "PATH": f"{ansible_test.parent}{os.pathsep}{os.environ['PATH']}"}


def main() -> int:
    """Unpack and test.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ansible-test", type=Path, default=Path(sys.executable).parent / "ansible-test")
    arguments, more = parser.parse_known_args()
    shutil.rmtree(CACHE / "ansible_collections", ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        target = archive.unpack(archive.build(Path(name)), CACHE)
    # A repository of its own: this one ignores .cache, and `ansible-test` skips files that Git ignores.
    subprocess.run(["git", "init", "--quiet", target], check=True)
    ansible_test = arguments.ansible_test.absolute()
    asked = subprocess.run([ansible_test.parent / "python", "-c", VERSIONS], check=True, capture_output=True, text=True)
    python, pip = asked.stdout.split()
    command = [ansible_test, "sanity", "--python", python, "--color", "no", *more]
    variables = environment(ansible_test, CACHE / "home", pip)
    return subprocess.run(command, cwd=target, env=variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

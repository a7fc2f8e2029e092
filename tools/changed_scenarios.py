#!/usr/bin/env python3
"""Print the Molecule scenarios that test what has changed since a revision.

Usage: ``tools/changed_scenarios.py --everything 'redis default' REVISION``. What is not committed counts as changed. A
file that each scenario was chosen for goes to standard error. Which scenario tests which file is read from the tree:

- a scenario's own files are tested by it;
- a role is tested by the scenarios that converge with its playbook; if other roles use it, by all of ``--everything``;
- a test is run by the scenarios whose verifier names its directory, or whose tests import it;
- any other file is tested by the scenarios that name its path, or a directory above it, or whose role does;
- documents and unit tests need no scenario, as lint and the unit tests cover them;
- whatever else has changed needs all of ``--everything``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import yaml

ROOT = Path(__file__).resolve().parent.parent
#: Covered by lint and the unit tests alone.
NO_SCENARIO = ("docs/", "changelogs/", "tests/unit/", "tools/", "benchmarks/", "requirements/unit-", ".github/")
#: Where another file of the project may be named.
NAMING = (".yml", ".py", ".j2", ".sh")


def read(path: Path) -> str:
    """Read a text.

    Args:
        path: File.

    Returns:
        Its text; nothing if it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@dataclass(frozen=True)
class Tree:
    """A working copy, and which scenario tests what in it."""

    root: Path
    everything: frozenset[str]

    @cached_property
    def scenarios(self) -> dict[str, dict]:
        """Name of each scenario to its settings."""
        files = sorted(self.root.glob("molecule/*/molecule.yml"))
        return {path.parent.name: yaml.safe_load(read(path)) or {} for path in files}

    @cached_property
    def texts(self) -> dict[str, str]:
        """Path to text of each file that may name others: those of scenarios and roles."""
        return {
            # Python names a path as "tests" / "fixtures".
            path.relative_to(self.root).as_posix(): re.sub(r'"\s*/\s*"', "/", read(path))
            for top in ("molecule", "roles")
            for path in sorted((self.root / top).rglob("*"))
            if path.suffix in NAMING and path.is_file() and path.name != "argument_specs.yml"
        }

    def of_playbook(self, path: str) -> set[str]:
        """Find the scenarios that converge with a playbook.

        Args:
            path: Playbook.

        Returns:
            Scenarios.
        """
        found = set()
        for name, settings in self.scenarios.items():
            converge = ((settings.get("ansible") or {}).get("playbooks") or {}).get("converge", "")
            if converge and (self.root / "molecule" / name / converge).resolve() == (self.root / path).resolve():
                found.add(name)
        return found

    def of_role(self, role: str) -> set[str]:
        """Find the scenarios of a role.

        Args:
            role: Its name.

        Returns:
            Its own scenarios; with all others if other roles use it, or if it has none.
        """
        own = self.of_playbook(f"playbooks/{role}.yml") | ({role} & set(self.scenarios))
        used = re.compile(rf"quantops\.ibkr_stack\.{role}\b")
        shared = any(
            used.search(text)
            for path, text in self.texts.items()
            # The list of all services uses none of them.
            if path.startswith("roles/")
            and not path.startswith((f"roles/{role}/", "roles/stack/vars/main/contract.yml"))
        )
        return own | self.everything if shared or not own else own

    def of_test(self, path: PurePosixPath) -> set[str]:
        """Find the scenarios that run a test, or a module of tests.

        Args:
            path: File below ``tests``.

        Returns:
            Scenarios.
        """
        found = set()
        for name, settings in self.scenarios.items():
            verifier = settings.get("verifier") or {}
            places = [verifier.get("directory"), *(verifier.get("additional_files_or_dirs") or [])]
            # Further directories are relative to the first.
            base = self.root / "molecule" / name / (places[0] or "tests")
            directories = [base, *(base / place for place in places[1:])]
            if any((self.root / path).resolve().is_relative_to(place.resolve()) for place in directories):
                found.add(name)
        return found | self.importing(path.stem, set()) if path.suffix == ".py" else found

    def importing(self, module: str, known: set[str]) -> set[str]:
        """Find the scenarios whose tests import a module, directly or through another.

        Args:
            module: Its name.
            known: Modules that have been looked for.

        Returns:
            Scenarios.
        """
        known.add(module)
        line = re.compile(rf"^(?:from|import) {module}\b", re.MULTILINE)
        found = set()
        for path in sorted([*self.root.glob("molecule/**/*.py"), *self.root.glob("tests/[!u]*/**/*.py")]):
            if not line.search(read(path)):
                continue
            relative = PurePosixPath(path.relative_to(self.root).as_posix())
            if relative.parts[0] == "molecule":
                found |= {relative.parts[1]} if relative.parts[1] in self.scenarios else self.everything
            elif path.stem not in known:
                found |= self.importing(path.stem, known)
        return found

    def naming(self, path: PurePosixPath) -> set[str]:
        """Find the scenarios that name a file or a directory above it, and those of the roles that do.

        Args:
            path: File.

        Returns:
            Scenarios. The deepest directory that anything names counts.
        """
        names = [str(path), str(path.with_suffix("")), *(str(each) for each in path.parents if len(each.parts) > 1)]
        for name in names:
            word = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
            found: set[str] = set()
            for place, text in self.texts.items():
                if word.search(text):
                    kind, owner = place.split("/")[:2]
                    found |= self.of_role(owner) if kind == "roles" else {owner} & set(self.scenarios)
            if found:
                return found
        return set()

    def scenarios_of(self, name: str) -> set[str]:
        """Find the scenarios that test a file.

        Args:
            name: Path of the file.

        Returns:
            Scenarios.
        """
        path = PurePosixPath(name)
        if name.startswith(NO_SCENARIO) or path.suffix == ".md" or name in ("LICENSE", "NOTICE"):
            return set()
        top, second = path.parts[0], path.parts[1] if len(path.parts) > 2 else ""
        if top == "molecule":
            return {second} if second in self.scenarios else set(self.everything)
        if top == "roles":
            # What a service says of itself is read by all others.
            contract = self.everything if path.parts[2:] == ("meta", "service.yml") else set()
            return self.of_role(second) | contract
        if top == "tests":
            return self.of_test(path) | self.naming(path) or set(self.everything)
        if top == "playbooks":
            of_role = (self.root / "roles" / path.stem).is_dir()
            return self.of_playbook(name) | (set() if of_role else self.everything) or set(self.everything)
        if top == "requirements":
            return self.naming(PurePosixPath(".venvs", path.stem)) or set(self.everything)
        return self.naming(path) or set(self.everything)


def changed_files(root: Path, revision: str) -> list[str]:
    """List what has changed since a revision, committed or not.

    Args:
        root: Working copy.
        revision: As Git names it.

    Returns:
        Paths; of a renamed file both.
    """
    commands = (
        ["git", "diff", "--name-only", "--no-renames", "-z", revision, "--"],
        ["git", "ls-files", "--others", "--exclude-standard", "-z"],
    )
    found: set[str] = set()
    for command in commands:
        output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
        found |= {name for name in output.split("\0") if name}
    return sorted(found)


def main() -> int:
    """Print the scenarios.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--everything", required=True, help="scenarios of what all services share")
    parser.add_argument("revision")
    arguments = parser.parse_args()
    tree = Tree(ROOT, frozenset(arguments.everything.split()))
    try:
        files = changed_files(ROOT, arguments.revision)
    except subprocess.CalledProcessError as error:
        print(f"BASE is {arguments.revision!r}, expected a revision of Git: {error.stderr.strip()}", file=sys.stderr)
        return 2
    reasons: dict[str, str] = {}
    for name in files:
        for scenario in sorted(tree.scenarios_of(name)):
            reasons.setdefault(scenario, name)
    for scenario, name in sorted(reasons.items()):
        print(f"{scenario:<16} {name}", file=sys.stderr)
    print(*sorted(reasons))
    return 0


if __name__ == "__main__":
    sys.exit(main())

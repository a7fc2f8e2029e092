"""Loads the collection of this working copy as Ansible does."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ansible.utils.collection_loader import AnsibleCollectionConfig
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

REPOSITORY = Path(__file__).parents[3]

if AnsibleCollectionConfig.collection_finder is None:
    _AnsibleCollectionFinder(paths=[str(REPOSITORY / ".collections")])._install()


def plugin(name: str) -> ModuleType:
    """Import a plugin by its path below `plugins`, with dots."""
    return importlib.import_module(f"ansible_collections.quantops.ibkr_stack.plugins.{name}")


def program(path: str) -> ModuleType:
    """Import a program that a container runs, by its path below the repository."""
    # By a name that hides no other module; a dataclass looks its own module up.
    spec = importlib.util.spec_from_file_location(f"program_{Path(path).stem}", REPOSITORY / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Outcome:
    """How a module ended: its result and everything that it printed."""

    result: dict[str, Any]
    output: str

    @property
    def failed(self) -> bool:
        """Whether it reported a failure."""
        return bool(self.result.get("failed"))


Run = Callable[..., Outcome]


def ansible_environment(**more: str) -> dict[str, str]:
    """Environment in which this Python's Ansible runs from the working copy, whatever the caller's own settings are."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**own, "PATH": path, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **more}


def ansible_playbook(directory: Path, *words: str, **environment: str) -> str:
    """Run a playbook in a directory, which must succeed, and return what it prints."""
    done = subprocess.run(
        ["ansible-playbook", *words],
        cwd=directory, env=ansible_environment(**environment), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


#: Services of this collection, as `stack_builtin_service_roles` lists them.
SERVICES = ("postgres", "redis", "minio", "ibkr_gateway", "backend", "mlflow", "airflow")
#: A task that every play of this collection begins with.
CONTRACTS = {
    "name": "Read the contracts",
    "quantops.ibkr_stack.service_contracts": {"roles": [f"quantops.ibkr_stack.{name}" for name in SERVICES]},
    "register": "stack_contract",
}


def containers_here(service: str) -> str:
    """A template of the containers that a service's role declares and that its contract has on the host."""
    here = f"stack_services.{service}.containers | dict2items | selectattr('value.here') | map(attribute='key')"
    return f"{{{{ {service}_containers | selectattr('name', 'in', {here} | list) | to_json }}}}"


def role_of_variables(directory: Path, service: str) -> Path:
    """Make a role `case` that has the variables of the role `stack` and of a service's role, and the latter's files.

    Args:
        directory: Where the playbook is.
        service: The service's role.

    Returns:
        The role's directory.
    """
    role = directory / "roles" / "case"
    for kind in ("defaults", "vars"):
        (role / kind / "main").mkdir(parents=True)
        for name in ("stack", service):
            for path in (REPOSITORY / "roles" / name / kind).rglob("*.yml"):
                (role / kind / "main" / f"{name}-{path.name}").symlink_to(path)
    (role / "files").symlink_to(REPOSITORY / "roles" / service / "files")
    return role

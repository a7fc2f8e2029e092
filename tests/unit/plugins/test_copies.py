"""What the collection holds twice: files of an application, which runs without it, and defaults of other roles."""

from __future__ import annotations

import ast
import re

import pytest
import yaml
from collection_under_test import REPOSITORY

COPIES = {
    "roles/backend/files/runtime/check_queues.py": "apps/backend/ibkr_backend/check_queues.py",
    "plugins/module_utils/gateway_status.py": "apps/backend/ibkr_backend/gateway_status.py",
}


@pytest.mark.parametrize(("source", "copy"), COPIES.items())
def test_a_copy_is_the_same(source: str, copy: str) -> None:
    assert (REPOSITORY / source).read_bytes() == (REPOSITORY / copy).read_bytes(), f"copy {source} to {copy}"


def test_a_default_of_another_role_is_the_same() -> None:
    """Where a contract or a container is rendered, a role has no defaults but its own."""
    defaults = {
        name: value
        for path in REPOSITORY.glob("roles/*/defaults/main.yml")
        for name, value in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).items()
    }
    found = set()
    for path in [*REPOSITORY.glob("roles/*/vars/**/*.yml"), *REPOSITORY.glob("roles/*/meta/service.yml")]:
        for name, value in re.findall(r"(\w+) \| default\(('[^']*'|\d+)\)", path.read_text(encoding="utf-8")):
            if name in defaults:
                assert ast.literal_eval(value) == defaults[name], f"{path}: {name}"
                found.add(name)
    assert {"container_image_no_proxy", "postgres_image"} <= found


def test_the_memory_of_redis_is_what_its_rule_compares_with() -> None:
    variables = yaml.safe_load((REPOSITORY / "roles/redis/vars/main.yml").read_text(encoding="utf-8"))
    assert f"default('{variables['redis_containers'][0]['memory']}')" in variables["redis_memory"]

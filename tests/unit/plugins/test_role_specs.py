"""Argument specs say what the defaults say, and the READMEs what both say."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from collection_under_test import plugin

ROOT = Path(__file__).resolve().parents[3]
ROLES = sorted(path.parent for path in ROOT.glob("roles/*/tasks"))
#: What a value in YAML must be to be of an option's type.
PYTHON_TYPES = {"str": str, "path": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}
# It holds secrets that are not yet read when specs are validated; the filter container_plan checks it.
NOT_IN_SPECS: set[str] = set()

location = importlib.util.spec_from_file_location("role_readmes", ROOT / "tools" / "role_readmes.py")
assert location and location.loader
role_readmes = importlib.util.module_from_spec(location)
location.loader.exec_module(role_readmes)


def load(path: Path) -> dict[str, Any]:
    """Read a YAML file with a mapping; a role without variables has none."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.exists() else {}


def specs(role: Path) -> dict[str, Any]:
    """Entry points of a role."""
    return load(role / "meta" / "argument_specs.yml")["argument_specs"]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
class TestRole:
    """One role."""

    def test_options_are_the_defaults(self, role: Path) -> None:
        """A variable without a spec, or a spec without a variable, fails."""
        defaults = set(load(role / "defaults" / "main.yml")) - NOT_IN_SPECS
        assert set(specs(role)["main"].get("options", {})) == defaults

    def test_literal_defaults_are_the_same(self, role: Path) -> None:
        """A template is described in words, a literal is repeated."""
        options = specs(role)["main"].get("options", {})
        defaults = load(role / "defaults" / "main.yml")
        for name, value in ((name, defaults[name]) for name in options):
            if "{{" in json.dumps(value):
                assert "default" not in options[name], name
                assert re.search(r"\b(The default|Defaults to)\b", options[name]["description"]), name
            else:
                assert options[name]["default"] == value, name
                assert type(value) is PYTHON_TYPES[options[name]["type"]], name
                each = value if isinstance(value, list) else [value]
                assert all(one in options[name].get("choices", each) for one in each), name

    def test_every_option_is_described(self, role: Path) -> None:
        """No option is without a sentence; a list says what it is of."""
        for name, option in specs(role)["main"].get("options", {}).items():
            assert option["description"].endswith("."), name
            assert ("elements" in option) == (option["type"] == "list"), name
            assert not option.get("required"), name

    def test_readme_is_current(self, role: Path) -> None:
        """What tools/role_readmes.py would write stands there."""
        assert (role / "README.md").read_text(encoding="utf-8") == role_readmes.readme(role)

    def test_early_checks_are_validated_too(self, role: Path) -> None:
        """Where another role includes tasks of this one by name, the same options are validated."""
        entry = "preflight"
        if role.name in ("stack", "container_service") or not (role / "tasks" / f"{entry}.yml").exists():
            return
        assert specs(role)[entry]["options"] == specs(role)["main"]["options"]


def test_every_key_of_a_container_is_documented() -> None:
    """The table in docs/adding-a-service.md names the keys that the filter knows, and no other."""
    text = (ROOT / "docs" / "adding-a-service.md").read_text(encoding="utf-8")
    rows = text.partition("## Keys of a container")[2].splitlines()
    named = {key for row in rows if row.startswith("| `") for key in re.findall("`([^`]+)`", row.split("|")[1])}
    # The kind comes from the contract.
    assert named == set(plugin("plugin_utils.container_schema").CONTAINER_KEYS) - {"kind"}

"""What `ansible-doc` shows is there, and is what the code does."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from collection_under_test import REPOSITORY, ansible_environment, plugin

PLUGINS = REPOSITORY / "plugins"
FILTERS: dict[str, Callable[..., Any]] = {
    name: function
    for path in sorted((PLUGINS / "filter").glob("*.py"))
    for name, function in plugin(f"filter.{path.stem}").FilterModule().filters().items()
}
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


def ansible_doc(kind: str, *names: str) -> dict[str, Any]:
    """List the collection's plugins of a kind, or show those that are named."""
    words = ["ansible-doc", "--type", kind, "--json", *(names or ["--list", "quantops.ibkr_stack"])]
    done = subprocess.run(
        words, cwd=REPOSITORY, env=ansible_environment(), capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout)


def documentation(path: Path) -> dict[str, str]:
    """Documentation in a Python file."""
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("DOCUMENTATION", "EXAMPLES", "RETURN")
    }


def test_ansible_doc_lists_every_filter() -> None:
    """Each with a description."""
    described = {name.rpartition(".")[2]: text for name, text in ansible_doc("filter").items()}
    assert set(described) == set(FILTERS)
    assert [name for name, text in described.items() if text in ("", "UNDOCUMENTED")] == []


@pytest.mark.parametrize("kind", ["module", "filter", "callback"])
def test_ansible_doc_shows_every_plugin(kind: str) -> None:
    """The whole page of each, as a reader asks for it."""
    directory = PLUGINS / {"module": "modules"}.get(kind, kind)
    names = [f"quantops.ibkr_stack.{path.stem}" for path in directory.glob("*.yml" if kind == "filter" else "*.py")]
    shown = ansible_doc(kind, *names)
    assert names and set(shown) == set(names)
    for name, page in shown.items():
        assert page["doc"]["short_description"] and page["doc"]["description"], name
        assert kind == "callback" or page["examples"], name


def test_ansible_doc_shows_every_role() -> None:
    """The whole page of each entry point, with every option that its specification has."""
    names = [f"quantops.ibkr_stack.{path.parent.name}" for path in REPOSITORY.glob("roles/*/tasks")]
    shown = ansible_doc("role", *names)
    assert set(shown) == set(names)
    for name, page in shown.items():
        path = REPOSITORY / "roles" / name.rpartition(".")[2] / "meta/argument_specs.yml"
        specs = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
        described = {entry: set(spec.get("options") or {}) for entry, spec in page["entry_points"].items()}
        assert described == {entry: set(spec.get("options") or {}) for entry, spec in specs.items()}, name


def test_no_documentation_without_a_filter() -> None:
    assert {path.stem for path in (PLUGINS / "filter").glob("*.yml")} == set(FILTERS)


def test_no_filter_plugin_holds_code() -> None:
    """They only name functions of plugin_utils, which import no filter plugin."""
    for path in sorted((PLUGINS / "filter").glob("*.py")):
        [found] = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
        assert found.name == "FilterModule", path.name
    for path in sorted(PLUGINS.rglob("*.py")):
        assert "ibkr_stack.plugins.filter" not in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize("name", FILTERS)
def test_filter_is_documented_as_its_function_is(name: str) -> None:
    """Options, their order, and their defaults are those of the function; examples use it."""
    text = yaml.safe_load((PLUGINS / "filter" / f"{name}.yml").read_text(encoding="utf-8"))
    said, options = text["DOCUMENTATION"], dict(text["DOCUMENTATION"]["options"])
    assert said["name"] == name
    assert f"quantops.ibkr_stack.{name}" in text["EXAMPLES"]
    assert yaml.safe_load(text["EXAMPLES"])[0]["name"]
    assert text["RETURN"]["_value"]["description"]
    assert options.pop("_input")["required"]
    _, *parameters = inspect.signature(FILTERS[name]).parameters.values()
    positional = [word.strip() for word in said.get("positional", "").split(",") if word]
    assert positional == [each.name for each in parameters]
    assert list(options) == [each.name for each in parameters]
    for each in parameters:
        option = options[each.name]
        if each.default is inspect.Parameter.empty:
            assert option["required"], each.name
        else:
            assert (option["default"] or None) == (each.default or None), each.name
            assert isinstance(option["default"], TYPES[option["type"]]), each.name


@pytest.mark.parametrize("path", sorted((PLUGINS / "modules").glob("*.py")), ids=lambda path: path.stem)
def test_module_is_documented(path: Path) -> None:
    """`ansible-test sanity` compares options with the code; here everything is there at all."""
    said = documentation(path)
    assert yaml.safe_load(said["DOCUMENTATION"])["module"] == path.stem
    examples = yaml.safe_load(said["EXAMPLES"])
    assert all(task["name"] for task in examples)
    assert any(f"quantops.ibkr_stack.{path.stem}" in task for task in examples)
    assert yaml.safe_load(said["RETURN"])


@pytest.mark.parametrize("path", sorted((PLUGINS / "action").glob("*.py")), ids=lambda path: path.stem)
def test_action_is_documented(path: Path) -> None:
    """An action's documentation is that of the module of its name."""
    assert (PLUGINS / "modules" / path.name).exists()


def test_ansible_doc_lists_every_role_and_entry_point() -> None:
    """Each with a sentence in the list, and more in its own page."""
    listed = {name.rpartition(".")[2]: role["entry_points"] for name, role in ansible_doc("role").items()}
    assert set(listed) == {path.parent.name for path in REPOSITORY.glob("roles/*/tasks")}
    for role, entries in listed.items():
        specs = yaml.safe_load((REPOSITORY / "roles" / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
        assert set(entries) == set(specs["argument_specs"])
        for entry, spec in specs["argument_specs"].items():
            assert spec.get("short_description"), f"{role}: {entry}"
            assert spec.get("description"), f"{role}: {entry}"

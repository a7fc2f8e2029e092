"""What a run says to words that it cannot serve, before it reaches a host."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from collection_under_test import REPOSITORY, ansible_environment, plugin

INVENTORY = """
redis:
  hosts:
    one: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}", ansible_become: false}
"""


def run(inventory: Path, playbook: str, *options: str) -> tuple[int, str]:
    """Run a playbook; returns its status and what it says."""
    done = subprocess.run(
        ["ansible-playbook", "-i", str(inventory), playbook, *options], cwd=REPOSITORY, env=ansible_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("playbook", ["destroy", "rotate_secrets", "start", "status", "stop", "verify"])
def test_tags_where_there_are_none(tmp_path: Path, playbook: str) -> None:
    """Ansible would pass over the plays, and end well."""
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    status, said = run(tmp_path / "hosts.yml", f"playbooks/{playbook}.yml", "--tags", "redis")
    assert status == 2, said
    assert "This playbook has no tags and always does everything." in said


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--tags=reddis", "--tags names reddis, which is neither a service nor a step. Did you mean redis?"),
        ("--extra-vars=drift_format=xml", "drift_format is xml, expected table or json."),
    ],
)
def test_drift_of_what_does_not_exist(tmp_path: Path, option: str, expected: str) -> None:
    """Nothing would be compared, and the run end well."""
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    status, said = run(tmp_path / "hosts.yml", "playbooks/drift.yml", option)
    assert status == 2, said
    assert expected in said


def test_a_silence_of_an_alert_that_does_not_exist(tmp_path: Path) -> None:
    """Alertmanager would take it, and silence nothing."""
    (tmp_path / "hosts.yml").write_text(f"{INVENTORY}monitoring: {{hosts: {{one: }}}}\n")
    status, said = run(tmp_path / "hosts.yml", "playbooks/silence.yml", "--extra-vars=silence_alert=HostDwon")
    assert status == 2, said
    said = " ".join(said.split())
    assert "ALERT is HostDwon, and no alert has that name. Alerts are AlertsNotSent, " in said
    assert ", HostDown, " in said


def test_an_inventory_that_does_not_exist(tmp_path: Path) -> None:
    """Ansible would run without hosts, and end well."""
    status, said = run(tmp_path / "nowhere", "playbooks/verify.yml")
    assert status == 1, said
    assert f"Completely failed to parse inventory source {tmp_path / 'nowhere'}" in " ".join(said.split())


@pytest.mark.parametrize("place", ["secrets", "live/keys", "."])
def test_secrets_that_ansible_would_read_as_hosts(tmp_path: Path, place: str) -> None:
    """Every file of the directory is an inventory, whose lines are hosts, and they are shown."""
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all.yml").write_text(f"secrets_dir: {tmp_path / place}")
    status, said = run(tmp_path, "playbooks/site.yml")
    assert status == 2 and f"secrets_dir is {tmp_path / place}, in the inventory {tmp_path}: " in said
    assert sorted(each.name for each in tmp_path.iterdir()) == ["group_vars", "hosts.yml"]


def test_secrets_beside_an_inventory(tmp_path: Path) -> None:
    """A file is read by itself, and what begins with a dot is passed over, like directories of variables."""
    settings = plugin("plugin_utils.settings")
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    for place in (".secrets", ".private/secrets", "group_vars/secrets", "../secrets"):
        assert settings.secrets_read_as_hosts([str(tmp_path)], f"{tmp_path}/{place}") == []
    assert settings.secrets_read_as_hosts([str(tmp_path)], f"{tmp_path}/group_vars/../secrets") != []
    assert settings.secrets_read_as_hosts([str(tmp_path / "hosts.yml")], f"{tmp_path}/secrets") == []


@pytest.mark.parametrize("playbook", ["site", "destroy"])
def test_variables_that_ansible_ignores(tmp_path: Path, playbook: str) -> None:
    """A directory for the vault beside the file: the run would act on the stack of the default name."""
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    (tmp_path / "group_vars" / "all").mkdir(parents=True)
    (tmp_path / "group_vars" / "all.yml").write_text("stack_name: desk")
    (tmp_path / "group_vars" / "all" / "vault.yml").write_text("secrets_values: {}")
    for source in (tmp_path, tmp_path / "hosts.yml"):
        status, said = run(source, f"playbooks/{playbook}.yml")
        assert status == 2, said
        assert (
            f"Ansible ignores {tmp_path}/group_vars/all.yml, because the directory {tmp_path}/group_vars/all is" in said
        )

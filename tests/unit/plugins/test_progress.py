"""The output that a person reads while a playbook runs."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from collection_under_test import REPOSITORY, ansible_environment, plugin

HOSTS = """
[all]
one ansible_connection=local ansible_python_interpreter="{{ ansible_playbook_python }}"
[nobody]
"""
PLAYBOOK = """
- name: First
  hosts: one
  gather_facts: false
  tasks:
    - name: Change something
      ansible.builtin.command: "true"
      changed_when: true
    - name: Leave something
      ansible.builtin.command: "true"
      changed_when: false
    - name: Skip something
      ansible.builtin.command: "true"
      when: false
    - name: Write a file
      ansible.builtin.copy:
        dest: "{{ playbook_dir }}/written"
        content: "new line\\n"
        mode: "0600"
      diff: true
- name: Absent service
  hosts: nobody
  gather_facts: false
  tasks:
    - name: Never said
      ansible.builtin.command: "true"
- name: Second
  hosts: one
  gather_facts: false
  tasks:
    - name: Sleep a while
      ansible.builtin.command: sleep 4
      changed_when: false
    - name: Tell the reader
      ansible.builtin.debug:
        msg: [a line, another line]
    - name: Write a secret
      ansible.builtin.command: echo s3cr3t-value
      no_log: true
    - name: Go wrong
      ansible.builtin.assert:
        that: false
        fail_msg: The variable x is wrong. Set it to 1.
        quiet: true
"""

# A module's warning is part of its result; so is that of an action plugin since ansible-core 2.19.
WARNING_MODULE = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({"text": {"type": "str"}, "fails": {"type": "bool", "default": False}})
module.warn("Beware of " + module.params["text"])
(module.fail_json if module.params["fails"] else module.exit_json)(msg="Said so.")
"""
WARNING_ACTION = """
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        Display().warning("Beware of an action")
        return super().run(tmp, task_vars)
"""
WARNING_PLAYBOOK = """
- name: First
  hosts: one
  gather_facts: false
  tasks:
    - name: Warn
      beware: {text: a result}
    - name: Warn in an action plugin
      beware_action:
    - name: Warn of each item
      beware: {text: "{{ item }}"}
      loop: [an item, another item]
    - name: Warn and go on
      beware: {text: an ignored failure, fails: true}
      ignore_errors: true
    - name: Warn and fail
      beware: {text: a failure, fails: true}
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Lines that a playbook with two steps and a failure prints; it runs once for all tests."""
    directory = tmp_path_factory.mktemp("progress")
    (directory / "play.yml").write_text(PLAYBOOK)
    (directory / "hosts").write_text(HOSTS)
    return run(directory, status=2)


def run(directory: Path, status: int) -> list[str]:
    """Run the playbook with a heartbeat of a second; its exit status must be `status`."""
    environment = ansible_environment(ANSIBLE_STDOUT_CALLBACK="quantops.ibkr_stack.progress", QUANTOPS_HEARTBEAT="1")
    done = subprocess.run(
        ["ansible-playbook", "-i", str(directory / "hosts"), str(directory / "play.yml")],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, done.stdout
    # On a busy machine any task may take the seconds from which on they are told.
    return [re.sub(r" \(\d+ s\)$", "", line) for line in done.stdout.splitlines()]


def test_steps_are_counted_without_absent_services(output: list[str]) -> None:
    """A play without hosts is no step and is not mentioned."""
    steps = [line for line in output if "━━" in line]
    assert [step.split(" · ")[:2] for step in steps] == [["━━ Step 1 of 2", "First"], ["━━ Step 2 of 2", "Second"]]
    assert not any("Absent service" in line or "Never said" in line for line in output)


def test_changes_are_shown_and_the_rest_is_not(output: list[str]) -> None:
    """An operator reads what changed."""
    assert "  ✔ Change something [one]" in output
    # On a busy machine any task may take long enough for a line about it, which is another test's subject.
    said = [line for line in output if not line.startswith("    …")]
    assert not any("Leave something" in line or "Skip something" in line for line in said)
    assert "  a line" in output and "  another line" in output


def test_a_difference_is_shown_once_below_its_task(output: list[str]) -> None:
    """Ansible's own output shows it before the task."""
    assert output.count("+new line") == 1
    assert output.index("  ✔ Write a file [one]") < output.index("+new line")


def test_a_long_task_speaks(output: list[str]) -> None:
    """While a task takes long there is a line about it, with the time since it began."""
    beats = [line for line in output if re.match(r"    … Sleep a while: \d+ s, since \d\d:\d\d:\d\d$", line)]
    assert len(beats) >= 2


def test_a_failure_is_told_with_its_remedy(output: list[str]) -> None:
    """The task, the message, and the host's count at the end."""
    at = output.index("  ✘ Go wrong [one]")
    assert output[at + 1] == "    The variable x is wrong. Set it to 1."
    assert any(line.startswith("one: failed (ok=") and "failed=1" in line for line in output)


def test_warnings_are_shown(tmp_path: Path) -> None:
    """Of modules and of action plugins, whether the task ends well or not, each once."""
    for folder, name, text in (
        ("library", "beware.py", WARNING_MODULE),
        ("library", "beware_action.py", WARNING_MODULE),
        ("action_plugins", "beware_action.py", WARNING_ACTION),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text)
    (tmp_path / "play.yml").write_text(WARNING_PLAYBOOK)
    (tmp_path / "hosts").write_text(HOSTS)
    said = "\n".join(run(tmp_path, status=2))
    for what in ("a result", "an action", "an item", "another item", "an ignored failure", "a failure"):
        assert len(re.findall(rf"\[WARNING\]: (Module warning: )?Beware of {what}$", said, re.MULTILINE)) == 1, said


def test_a_host_that_cannot_be_reached_is_told_in_two_lines(tmp_path: Path) -> None:
    """Who it is and what SSH says, without the place in the project where it was noticed."""
    (tmp_path / "play.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  tasks: [{name: Ask, ansible.builtin.ping: }]\n"
    )
    (tmp_path / "hosts").write_text(f"{HOSTS}away ansible_host=away.invalid ansible_connection=ssh\n")
    lines = run(tmp_path, status=4)
    # A host at which the run ended early may have had something to change.
    assert any(line.startswith("one: nothing changed (") for line in lines), lines
    said = [line for line in lines if line and not line.startswith(("━━", "    …", "away: ", "one: "))]
    assert said[0] == "  ✘ Ask [away]" and len(said) == 2, said
    assert (
        said[1].startswith("    Cannot be reached: Failed to connect to the host via ssh: ")
        and "away.invalid" in said[1]
    )


def test_what_is_stopped_is_told_of_each_host(tmp_path: Path) -> None:
    """A name of a task is worked out once, for the first host, which may have nothing to stop."""
    (tmp_path / "docker").write_text("#!/bin/sh\n")
    (tmp_path / "docker").chmod(0o755)
    tasks = REPOSITORY / "roles" / "container_service" / "tasks" / "stop_wave.yml"
    (tmp_path / "play.yml").write_text(
        "- hosts: all\n  gather_facts: false\n"
        f"  environment: {{PATH: '{tmp_path}:/usr/bin:/bin'}}\n"
        f"  tasks: [{{ansible.builtin.include_tasks: {tasks}, vars: {{container_service_stopping: 0}}}}]\n"
    )
    local = 'ansible_connection=local ansible_python_interpreter="{{ ansible_playbook_python }}"'
    waves = {"one": [], "two": ["desk-backend"], "three": ["desk-redis", "desk-minio"]}
    (tmp_path / "hosts").write_text(
        "".join(
            f"{host} {local} container_service_stop_order='{json.dumps([names])}'\n" for host, names in waves.items()
        )
    )
    said = sorted(line for line in run(tmp_path, status=0) if "✔" in line)
    assert said == ["  ✔ Stop: desk-backend [two]", "  ✔ Stop: desk-redis, desk-minio [three]"]


def test_no_log_is_kept(output: list[str]) -> None:
    """What a task hides is not in the output; that it changed something is."""
    assert not any("s3cr3t-value" in line for line in output)
    assert any("Write a secret" in line for line in output)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (42.9, "42 s"), (60, "1 min 00 s"), (185, "3 min 05 s")])
def test_durations(seconds: float, text: str) -> None:
    """Durations as a person writes them."""
    assert plugin("callback.progress").span(seconds) == text


def test_a_filters_own_sentence_is_all_that_is_told() -> None:
    """What Ansible puts before it helps nobody who has to change the inventory."""
    before = (
        "Task failed: Finalization of task args for 'ansible.builtin.set_fact' failed: Error while resolving value for "
        "'plan': The filter plugin 'quantops.ibkr_stack.container_plan' failed: "
    )
    sentence = "redis_overrides.redis has the unknown key 'memmory'."
    strip = plugin("callback.progress").FROM_A_FILTER.sub
    assert strip("", before + sentence) == sentence
    assert strip("", "Task failed: something else") == "Task failed: something else"

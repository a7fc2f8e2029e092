# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Output for the person who waits: steps, what changes, and what takes long."""

from __future__ import annotations

#: Groups that plays make of the stack's hosts; see playbooks/hosts.yml and upgrade.yml.
MADE = ("stack_hosts", "stack_upgraded")
DOCUMENTATION = r"""
name: progress
type: stdout
short_description: Steps, changes and what takes long
description:
  - Shows each play as step N of M, each change and each failure; what is already as declared only with C(-v).
  - While a task takes long, says every few seconds which one and since when.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
options:
  heartbeat:
    description: Seconds of silence after which a line says what is going on.
    type: int
    default: 15
    env: [{name: QUANTOPS_HEARTBEAT}]
    ini: [{section: callback_progress, key: heartbeat}]
"""

import re
import threading
import time
from typing import Any

from ansible import constants as C
from ansible.plugins.callback.default import CallbackModule as Default
from ansible.plugins.loader import filter_loader

# What Ansible puts before the sentence of a filter, which says itself what is wrong.
FROM_A_FILTER = re.compile(r"^Task failed: .*The filter plugin 'quantops\.[^']*' failed: ", re.DOTALL)
APPLY = "quantops.ibkr_stack.container_apply"  # the module that tells of several containers at once
WATCH = 1.0  # seconds between two looks at the clock


def span(seconds: float) -> str:
    """Write a duration.

    Args:
        seconds: Its length.

    Returns:
        Such as ``42 s`` or ``3 min 05 s``.
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class CallbackModule(Default):
    """The default output, shortened, with a clock."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "quantops.ibkr_stack.progress"

    def __init__(self) -> None:
        """Start with no step and no task."""
        super().__init__()
        self.steps: list[Any] = []
        self.step = 0
        self.begun = time.monotonic()
        self.task_name = ""
        self.task_begun = self.begun
        self.spoken = self.begun
        self.header_due = False
        self.stop = threading.Event()
        self.plays = 0

    # ---- the clock

    def watch(self) -> None:
        """Speak when nothing has been said for a while."""
        while not self.stop.wait(WATCH):
            now = time.monotonic()
            if self.task_name and now - max(self.spoken, self.task_begun) >= self.get_option("heartbeat"):
                begun = time.strftime("%H:%M:%S", time.localtime(time.time() - (now - self.task_begun)))
                self.say(f"    … {self.task_name}: {span(now - self.task_begun)}, since {begun}", C.COLOR_VERBOSE)

    def say(self, text: str, color: str | None = None) -> None:
        """Show a line.

        Args:
            text: What to show.
            color: One of Ansible's colours.
        """
        self.spoken = time.monotonic()
        self._display.display(text, color=color)

    # ---- steps

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Count the steps and start the clock.

        Args:
            playbook: What runs.
        """
        super().v2_playbook_on_start(playbook)
        self.playbook = playbook
        # Ansible makes a process of its own for each task. One that meets a filter of a collection compiles the modules
        # of all its filters, unless they are here, in the parent, already: a quarter of a run's processor time.
        filter_loader.get("quantops.ibkr_stack.over")
        threading.Thread(target=self.watch, daemon=True).start()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Count the plays that have hosts; the first one knows the inventory.

        Args:
            play: What begins.
        """
        self._play = play
        if not self.plays:
            # Ansible hands callbacks no inventory; the play's variable manager has it.
            inventory = play.get_variable_manager()._inventory
            # Those groups are made by the run itself.
            self.plays = sum(
                bool(inventory.get_hosts(each.hosts)) or any(group in each.hosts for group in MADE)
                for each in self.playbook.get_plays()
            )
        self.play_name = play.get_name().strip()
        self.step += 1
        self.header_due = True

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Say nothing of services that this inventory does not have."""
        self.header_due = False
        self.step -= 1

    def header(self) -> None:
        """Show which step begins, once there is something to do in it."""
        if self.header_due:
            self.header_due = False
            self.say(
                f"\n━━ Step {self.step} of {self.plays} · {self.play_name} · {span(time.monotonic() - self.begun)}",
                C.COLOR_HIGHLIGHT,
            )

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Remember what is going on.

        Args:
            task: What begins.
            is_conditional: Unused.
        """
        self.header()
        self.task_name = task.get_name().split(" : ")[-1].strip()
        self.task_begun = time.monotonic()
        if task.action == "quantops.ibkr_stack.container_wait":
            self.task_name = ""  # says itself what it waits for
        if self._display.verbosity:
            super().v2_playbook_on_task_start(task, is_conditional)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Files that are read in are of no interest to an operator.

        Args:
            included_file: What is read in.
        """
        if self._display.verbosity:
            super().v2_playbook_on_include(included_file)

    # ---- results

    def containers(self, result: Any) -> bool:
        """Show what was done to each container, in a line each.

        Args:
            result: What Ansible reports.

        Returns:
            Whether it was a task that applies plans to containers, and changed any.
        """
        changes = result._result.get("changes") if result._task.action == APPLY else None
        host = "" if result._host.get_name() == "localhost" else f" [{result._host.get_name()}]"
        for change in changes or []:
            took = f" ({span(change['seconds'])})" if change["seconds"] >= 3 else ""
            text = f"{change['action'].capitalize()} {change['name']} ({'; '.join(change['reasons'])})"
            self.say(f"  ✔ {text}{host}{took}", C.COLOR_CHANGED)
        return bool(changes)

    def line(self, mark: str, result: Any, color: str) -> None:
        """Show a result in one line.

        Args:
            mark: Its sign.
            result: What Ansible reports.
            color: One of Ansible's colours.
        """
        name = self.task_name or result._task.get_name().split(" : ")[-1]
        label = "" if result._result.get("_ansible_no_log") else self._get_item_label(result._result)
        host = "" if result._host.get_name() == "localhost" else f" [{result._host.get_name()}]"
        took = time.monotonic() - self.task_begun
        self.say(
            f"  {mark} {name}{f': {label}' if label else ''}{host}{f' ({span(took)})' if took >= 3 else ''}", color
        )

    def v2_runner_on_ok(self, result: Any) -> None:
        """Show changes, and what a debug task says.

        Args:
            result: What Ansible reports.
        """
        if self._display.verbosity:
            super().v2_runner_on_ok(result)
            return
        found = result._result
        self._handle_warnings(found)
        if result._task.action in C._ACTION_DEBUG:
            if "results" not in found:
                self.message(found)
        elif self.containers(result):
            pass
        elif found.get("changed") and "results" not in found and result._task.action not in C._ACTION_INCLUDE_TASKS:
            self.line("✔", result, C.COLOR_CHANGED)
        if self._display.verbosity == 0 and result._task.diff and "results" not in found:
            self._show_diff(found)

    def v2_on_file_diff(self, result: Any) -> None:
        """Leave differences to the lines of the changes, which follow.

        Args:
            result: What Ansible reports.
        """
        if self._display.verbosity:
            super().v2_on_file_diff(result)

    def _show_diff(self, found: dict[str, Any]) -> None:
        diff = self._get_diff(found["diff"]) if found.get("diff") and found.get("changed") else ""
        if diff:
            self.say(diff)

    def message(self, found: dict[str, Any]) -> None:
        """Show what a debug task says.

        Args:
            found: Its result.
        """
        text = found.get("msg", "")
        for one in text if isinstance(text, list) else [text]:
            self.say(f"  {one}")

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Show changed items.

        Args:
            result: What Ansible reports.
        """
        if self._display.verbosity:
            super().v2_runner_item_on_ok(result)
            return
        self._handle_warnings(result._result)
        if result._task.action in C._ACTION_DEBUG:
            self.message(result._result)
        elif result._result.get("changed") and not (
            result._result.get("started") and not result._result.get("finished")
        ):
            self.line("✔", result, C.COLOR_CHANGED)
            if result._task.diff:
                self._show_diff(result._result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Skipped tasks are of no interest.

        Args:
            result: What Ansible reports.
        """
        if self._display.verbosity:
            super().v2_runner_on_skipped(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Skipped items are of no interest.

        Args:
            result: What Ansible reports.
        """
        if self._display.verbosity:
            super().v2_runner_item_on_skipped(result)

    def v2_runner_retry(self, result: Any) -> None:
        """Say nothing of each attempt: the clock says what is awaited and since when.

        Args:
            result: What Ansible reports.
        """
        if self._display.verbosity:
            super().v2_runner_retry(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Show a failure: what was done, and what is wrong.

        Args:
            result: What Ansible reports.
            ignore_errors: Whether the play goes on.
        """
        found = result._result
        if self._display.verbosity or not (found.get("msg") or ignore_errors or "results" in found):
            super().v2_runner_on_failed(result, ignore_errors)
            return
        self._handle_warnings(found)
        if not ignore_errors and "results" not in found:
            self.failure(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Show which host cannot be reached, and why.

        Args:
            result: What Ansible reports.
        """
        if self._display.verbosity or result._task.ignore_unreachable:
            super().v2_runner_on_unreachable(result)
            return
        self.line("✘", result, C.COLOR_UNREACHABLE)
        text = str(result._result.get("msg", "")).removeprefix("Task failed: ").strip()
        for one in f"Cannot be reached: {text}".splitlines():
            self.say(f"    {one}", C.COLOR_UNREACHABLE)

    def failure(self, result: Any) -> None:
        """Show a failure.

        Args:
            result: What Ansible reports.
        """
        found = result._result
        self.containers(result)
        self.line("✘", result, C.COLOR_ERROR)
        texts = [FROM_A_FILTER.sub("", str(found.get("msg", "")))]
        texts += [found[key] for key in ("stderr", "module_stderr", "stdout") if found.get(key)][:1]
        for text in texts:
            for one in text.strip().splitlines()[-60:]:
                self.say(f"    {one}", C.COLOR_ERROR)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Show a failed item.

        Args:
            result: What Ansible reports.
        """
        if self._display.verbosity:
            super().v2_runner_item_on_failed(result)
        else:
            self._handle_warnings(result._result)
            self.failure(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Show the end in one line a host.

        Args:
            stats: Counts of every host.
        """
        self.stop.set()
        counts = {host: stats.summarize(host) for host in sorted(stats.processed)}
        # A failure elsewhere ends the run for all hosts: nobody knows what was left to change.
        early = any(count["failures"] or count["unreachable"] for count in counts.values())
        nothing = "nothing changed" if early else "nothing to change"
        for host, count in counts.items():
            bad = count["failures"] or count["unreachable"]
            text = "failed" if bad else f"{count['changed']} changed" if count["changed"] else nothing
            self.say(
                f"\n{host}: {text} (ok={count['ok']} changed={count['changed']} unreachable={count['unreachable']} "
                f"failed={count['failures']}) in {span(time.monotonic() - self.begun)}",
                C.COLOR_ERROR if bad else C.COLOR_OK,
            )

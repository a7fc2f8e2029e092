# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compare the secrets of this run with those that a host has, without sending it any that it does not hold already."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.contracts import services_by_container

MODULE = "quantops.ibkr_stack.host_secrets"
PEM = re.compile(r"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)
#: Enough for what people choose themselves; generated secrets need none.
ROUNDS = 5000


def digest(stack: str, name: str, value: str) -> str:
    """Digest a secret, so that a host can tell whether it has the same one.

    Args:
        stack: Name of the stack.
        name: Name of the secret.
        value: Its value.

    Returns:
        32 hexadecimal digits.
    """
    salt = f"quantops {stack} {name}".encode()
    return hashlib.pbkdf2_hmac("sha256", value.strip().encode(), salt, ROUNDS).hex()[:32]


def digests(stack: str, name: str, value: str) -> list[str]:
    """Digest a secret and its parts.

    Args:
        stack: Name of the stack.
        name: Name of the secret.
        value: Its value.

    Returns:
        The digest of the whole value, then those of the parts between commas: of the older Fernet keys in a list.
    """
    parts = value.strip().split(",")
    return [digest(stack, name, each) for each in dict.fromkeys([value, *(parts if len(parts) > 1 else [])])]


def held(value: str, texts: Iterable[str]) -> list[str] | None:
    """Find what of a secret stands in files.

    Args:
        value: The secret.
        texts: Content of the files.

    Returns:
        Its pieces that do, or nothing. The pieces of a private key with its certificate are the two of them.
    """
    text = "\n".join(texts)
    return [piece for piece in PEM.findall(value) or [value.strip()] if piece in text] or None


def entries(
    stack: str,
    secrets: dict[str, str],
    plans: list[dict[str, Any]],
    record: dict[str, Any],
    everything: bool,
    own: Iterable[str] = (),
) -> dict[str, dict[str, Any]]:
    """Choose what the host's record lacks.

    Args:
        stack: Name of the stack.
        secrets: Name to current value.
        plans: What ``container_plan`` returned for containers of this host.
        record: What the host has recorded.
        everything: Whether the secrets that no container of this host holds are recorded too, as digests.
        own: Secrets of the services of this host, which may have no more than a hash of one: nobody else records it.

    Returns:
        Name to what is to be recorded.
    """
    texts = [
        str(content) for plan in plans for tree in plan.get("secret_trees", []) for content in tree["files"].values()
    ]
    found: dict[str, dict[str, Any]] = {}
    for name, value in secrets.items():
        pieces = held(value, texts)
        if pieces is None and name in own:
            pieces = PEM.findall(value) or [value]
        if pieces is None and not everything:
            continue
        mark = digest(stack, name, value)
        whole = pieces is not None and len(pieces) == len(PEM.findall(value) or [value])
        known = record.get(name)
        if known and known["digest"] == mark and (known["held"] or not whole):
            continue
        found[name] = {"digest": mark}
        if whole:
            found[name]["value"] = value
        if pieces is not None and pieces != [value]:
            found[name]["pieces"] = pieces
    return found


def missing_secrets(
    report: dict[str, Any], args: dict[str, Any], host: str, current: dict[str, list[str]]
) -> list[str]:
    """Say why the directory of secrets does not fit this host.

    Args:
        report: What the module returned.
        args: Arguments of the task.
        host: Name of the host.
        current: Digests of the current secrets.

    Returns:
        A sentence for what is wrong; nothing if the directory fits.
    """
    allowed = args.get("regenerate") or []
    if allowed is True:
        return []
    allowed = [name for name in allowed if name]
    for name in sorted(set(allowed) - current.keys() - report["record"].keys()):
        near = difflib.get_close_matches(name, current, 1)
        hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(sorted(current))}."
        return [f"secrets_regenerate has the unknown name {name}. {hint}"]
    record, generated, given = report["record"], set(args.get("generated") or []), set(args.get("given") or [])
    remedy = (
        "Name the directory that has them in secrets_dir, or restore it from this stack's hosts:"
        " playbooks/fetch_secrets.yml (make fetch-secrets). To replace them with new ones, run again with"
        " -e secrets_regenerate={}."
    )
    lost = sorted(generated & record.keys() - set(allowed))
    if lost:
        return [
            f"{args['path']}, which secrets_dir names, lacks secrets that {host} has: {', '.join(lost)}. "
            + remedy.format(",".join(lost) if len(lost) < len(record) else "true")
        ]
    from_files = {name for name in record.keys() & current.keys() if name not in given | generated}
    other = {name for name in from_files if record[name]["digest"] not in current[name]}
    if other and other == from_files and not other <= {*allowed, *(args.get("rotating") or [])}:
        return [
            f"{args['path']}, which secrets_dir names, holds none of the secrets that {host} has: each of"
            f" {', '.join(sorted(other))} is a different one. " + remedy.format("true")
        ]
    empty = not given and not args.get("unused")
    if not record and empty and generated and generated == current.keys() - set(allowed):
        what = [f"the volumes {', '.join(report['volumes'])}"] if report["volumes"] else []
        what += [f"containers' secrets under {args['directory']}"] if report["copies"] else []
        if what:
            return [
                f"{args['path']}, which secrets_dir names, is empty, and {host} has {' and '.join(what)} of the stack"
                f" {args['stack']}. Name the directory that has its secrets in secrets_dir. To replace them with new"
                " ones, run again with -e secrets_regenerate=true."
            ]
    return []


def not_regenerated(args: dict[str, Any], current: dict[str, list[str]]) -> str:
    """Say which secrets this run was told to replace and does not.

    Args:
        args: Arguments of the task.
        current: Digests of the current secrets.

    Returns:
        A sentence, or nothing.
    """
    wanted, given = args.get("regenerate") or [], set(args.get("given") or [])
    generated = set(args.get("generated") or [])
    stay = sorted((current.keys() if wanted is True else current.keys() & set(wanted)) - generated)
    files = [name for name in stay if name not in given]
    if not files:
        return ""
    return (
        f"secrets_regenerate overwrites no secret: {args['path']} still has {', '.join(files)}. To replace them, remove"
        " their files and run again."
    )


def in_this_run(services: dict[str, Any], variables: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Find which services a run of site.yml makes as declared.

    Args:
        services: ``stack_services``.
        variables: Those of the host.

    Returns:
        Services that the run touches on some host, and those that it touches on all of theirs.
    """
    run = set(variables.get("ansible_run_tags") or ["all"])
    skipped = set(variables.get("ansible_skip_tags") or [])
    play = set(variables["ansible_play_hosts_all"])
    touched, whole = set(), set()
    for name, entry in services.items():
        hosts = set(entry["hosts"])
        if hosts & play and run & {"all", "tagged", name} and name not in skipped:
            touched.add(name)
            if hosts <= play:
                whole.add(name)
    return touched, whole


def partial_rotation(
    report: dict[str, Any], services: dict[str, Any], touched: set[str], whole: set[str], recreate: set[str]
) -> list[str]:
    """Say which services would be left with an old secret.

    Args:
        report: What the module returned.
        services: Those of ``stack_services`` that the inventory has.
        touched: Services that this run makes as declared on some host.
        whole: Services that it makes as declared on all of their hosts.
        recreate: Services whose protected containers may be recreated.

    Returns:
        A sentence if this run would change a secret for some of the services that use it, and not for all.
    """
    service_of = services_by_container(services)
    found: dict[str, set[str]] = {}
    together: set[str] = set()
    for name, containers in report["changed_secrets"].items():
        users = {service_of[each] for each in containers if each in service_of}
        # Who checks a password need not hold it, as PostgreSQL that has verifiers only: the name begins with its name.
        checks = {service for service in services if name.startswith(f"{service}_")}
        if users:
            users |= checks
        elif not report["record"][name]["held"] and checks & touched:
            # Other hosts hold it; those that this run leaves out are not there to say so.
            users = checks | (services.keys() - whole if services.keys() - touched - whole else set())
        if users & touched and users - whole:
            found[name] = users - whole
            together |= users
        for container in sorted(set(containers) & set(report["protected"])):
            service = service_of.get(container, "")
            if service in touched - recreate:
                return [
                    f"The secret {name} has changed, and the container {container}, which uses it, is recreated only"
                    f" with -e {service}_recreate=true, because that ends its session. Run again with it, or put"
                    " the old value back."
                ]
    if not found:
        return []
    left = [services[each]["title"] for each in services if each in set().union(*found.values())]
    order = ",".join(each for each in services if each in together)
    return [
        f"{', '.join(sorted(found))} changed, and this run would leave {', '.join(left)} with the old value. Run"
        f" site.yml for all that use it: --tags {order}, or without --tags and --limit."
    ]


def partial_upgrade(
    report: dict[str, Any], services: dict[str, Any], generated: set[str], touched: set[str], whole: set[str]
) -> list[str]:
    """Say which services would log in with other secrets than the services that check them know.

    Args:
        report: What the module returned.
        services: Those of ``stack_services`` that the inventory has.
        generated: Secrets that this run generates.
        touched: Services that this run makes as declared on some host.
        whole: Services that it makes as declared on all of their hosts.

    Returns:
        A sentence if this run would give new secrets to some of the services that share them, and not to all.
    """
    behind, together = set(), set()
    for name, entry in services.items():
        wired = entry["secret_checkers"]
        if not set(entry["containers"]) & set(report["copies"]):
            continue
        # What a service was given is recorded as a whole. Without a record, an earlier version gave it.
        new = {each for each in wired if each in generated} if wired.keys() & report["record"].keys() else wired.keys()
        users = {name, *(wired[each] for each in new)} & services.keys()
        if new and users & touched and users - whole:
            behind.add(name)
            together |= users
    if not behind:
        return []
    old, shared = (
        ", ".join(services[each]["title"] for each in services if each in some) for some in (behind, together)
    )
    return [
        f"{old} still {'have' if len(behind) > 1 else 'has'} the secrets of an earlier version, and this run would"
        f" leave out some of {shared}, which share the new ones. Run site.yml once without --tags and --limit."
    ]


class ActionModule(ActionBase):
    """Compares, and records what a service's containers are about to be given."""

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do what the task asks for.

        Args:
            tmp: Unused.
            task_vars: Variables of the task.

        Returns:
            The module's result; with ``compare`` also ``refused``, sentences that say why this run must not go on.
        """
        result = super().run(tmp, task_vars)
        args, variables = dict(self._task.args), task_vars or {}
        module_args: dict[str, Any] = {name: args[name] for name in ("directory", "stack", "fetch") if name in args}
        secrets = args.get("secrets") or {}
        compare, settle = bool(args.get("compare")), bool(args.get("settle"))
        if "plans" in args:
            known = (args.get("known") or {}).get("record") or {}
            own = args.get("own") or ()
            keep = entries(args["stack"], secrets, args["plans"], known, bool(args.get("everything")), own)
            if not keep and not settle:
                return {**result, "changed": False}
            module_args["keep"] = keep
        current: dict[str, list[str]] = {}
        if compare or settle:
            current = {name: digests(args["stack"], name, value) for name, value in secrets.items()}
            module_args.update(current=current, settle=settle)
        result.update(self._execute_module(module_name=MODULE, module_args=module_args, task_vars=task_vars))
        if compare and not result.get("failed"):
            result["refused"] = missing_secrets(result, args, variables["inventory_hostname"], current)
            if args.get("first") and (said := not_regenerated(args, current)):
                Display().warning(said)
            if not result["refused"] and not args.get("read_only"):
                result["refused"] = self.partial(result, args, variables)
        return result

    def partial(self, report: dict[str, Any], args: dict[str, Any], variables: dict[str, Any]) -> list[str]:
        """Judge a run for some of the services.

        Args:
            report: What the module returned.
            args: Arguments of the task.
            variables: Those of the host.

        Returns:
            As ``partial_rotation`` and ``partial_upgrade``.
        """
        active = self._templar.template(variables["stack_active"])
        services = {
            name: entry for name, entry in self._templar.template(variables["stack_services"]).items() if name in active
        }
        touched, whole = in_this_run(services, variables)
        if args.get("service"):
            # A role by itself: what else its playbook brings up is not known here.
            touched, whole = {args["service"]}, {args["service"]} & whole
        recreate = {
            name
            for name in services
            if str(self._templar.template(variables.get(f"{name}_recreate", False))).lower() in ("true", "yes", "1")
        }
        return partial_rotation(report, services, touched, whole, recreate) or partial_upgrade(
            report, services, set(args.get("generated") or []), touched, whole
        )

# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turns image definitions into plans, and makes the errors of builds readable."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.settings import did_you_mean, unknown_keys
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.source_files import as_text, context_files


def image_plan(definitions: dict[str, Any], wanted: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Turn image definitions into plans, parents first.

    Args:
        definitions: Image name to ``context`` (list of directories, laid over each other), ``only`` (files and folders
            of the context that count), ``dockerfile`` (another than ``Dockerfile``), ``from`` (parent's name), ``args``
            (build arguments), ``files`` (further files of the context) and ``variable`` (the one that declares its
            packages, for remedies).
        wanted: Names that are needed; parents are added.
        settings: ``repository``, ``args`` of every build.

    Returns:
        One dictionary an image: ``name``, ``ref`` (repository, name and the hash of all it is built from), ``parents``,
        ``files``, ``args``, ``variable`` and ``wave`` (0 has no parent).

    Raises:
        AnsibleFilterError: If an image is not defined.
    """
    plans: dict[str, dict[str, Any]] = {}

    def add(name: str, child: str) -> dict[str, Any]:
        if name in plans:
            return plans[name]
        if name not in definitions:
            hint = did_you_mean(name, definitions, f"Known are {', '.join(sorted(definitions))}.")
            raise AnsibleFilterError(f"The image {name!r} (wanted by {child}) is in no service's 'images'. {hint}")
        definition = definitions[name]
        unknown_keys(
            definition,
            {"context", "only", "dockerfile", "from", "args", "files", "base", "variable"},
            f"stack_images.{name}",
        )
        parents = [add(parent, f"the image {name}") for parent in definition.get("from", [])]
        files: dict[str, str] = {}
        for directory in definition.get("context", []):
            files.update(context_files(directory, kept=definition.get("dockerfile", "Dockerfile")))
        if "only" in definition:
            belongs = tuple(f"{path}/" for path in definition["only"])
            files = {path: text for path, text in files.items() if f"{path}/".startswith(belongs)}
        files.update(definition.get("files", {}))
        args = {
            **settings["args"],
            **{f"{parent['name'].upper().replace('-', '_')}_IMAGE": parent["ref"] for parent in parents},
            **definition.get("args", {}),
        }
        # Mirrors and proxies say where the same bytes come from: they are not part of what an image is.
        identity = {key: value for key, value in args.items() if key not in settings["args"]}
        parts = [
            files,
            identity,
            definition.get("base", {}),
            *([definition["dockerfile"]] if "dockerfile" in definition else []),
        ]
        made_from = json.dumps(parts, sort_keys=True, default=str)
        digest = hashlib.sha256(made_from.encode()).hexdigest()[:16]
        plans[name] = {
            "name": name,
            "ref": f"{settings['repository']}/{name}:{digest}",
            "files": files,
            "dockerfile": definition.get("dockerfile", "Dockerfile"),
            "args": args,
            "parents": [parent["name"] for parent in parents],
            "variable": definition.get("variable", ""),
            "wave": max((parent["wave"] + 1 for parent in parents), default=0),
        }
        return plans[name]

    for name in wanted:
        add(name, "a service")
    return sorted(plans.values(), key=lambda plan: plan["wave"])


def image_missing(plans: list[dict[str, Any]], present: list[str], wanted: list[str]) -> list[dict[str, Any]]:
    """Choose what has to be built.

    Args:
        plans: What ``image_plan`` returned.
        present: References that the engine has.
        wanted: Names that are needed. A parent is needed only while one of its children is to be built.

    Returns:
        Plans, parents first.
    """
    by_name = {plan["name"]: plan for plan in plans}
    needed: set[str] = set()

    def need(name: str) -> None:
        if name not in needed and by_name[name]["ref"] not in present:
            needed.add(name)
            for parent in by_name[name]["parents"]:
                need(parent)

    for name in wanted:
        need(name)
    return [plan for plan in plans if plan["name"] in needed]


def build_failure(text: str) -> str:
    """Make the error of a failed image build readable.

    Args:
        text: Message of ``community.docker.docker_image``: a sentence, then the log as a Python list.

    Returns:
        The sentence and the last lines of the log, a line each.
    """
    sentence, found, log = text.partition(", logs: ")
    try:
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", str(line)).strip() for line in ast.literal_eval(log)] if found else []
    except (SyntaxError, ValueError):
        return text
    return "\n".join([sentence, *[line for line in lines if line][-30:]])


def build_remedy(text: str, variable: str = "") -> str:
    """Say what to do about a failed image build.

    Args:
        text: What ``build_failure`` returned.
        variable: The one that declares the image's packages, if one does.

    Returns:
        A sentence or two.
    """
    wheel = re.search(r"Wheels are required for `([^`]+)`", text) or re.search(
        r"\b([\w.-]+?)(?:==\S+)? has no usable wheels", text
    )
    if wheel or "no usable wheels" in text or "building from source is disabled" in text:
        name = wheel[1] if wheel else "that package"
        return f"There is no wheel of {name} for this Python and processor, only its source. " + (
            f"Name it in {variable}.from_source and, if it is not pure Python, the Debian packages that compile it in"
            f" {variable}.apt_build."
            if variable
            else "Lock a version that has one ('uv pip compile --no-build' finds it), or another package."
        )
    if re.search(
        r"fatal error: \S+: No such file|command '\S+' failed|[Nn]o (C )?compiler|`?(gcc|cc|c\+\+)`?: not found", text
    ):
        return "A compiler or header is missing: " + (
            f"name the Debian packages that the build needs in {variable}.apt_build."
            if variable
            else "install the Debian packages that the build needs in the image's Dockerfile."
        )
    if "No solution found when resolving dependencies" in text:
        return (
            f"The packages of {f'{variable}.requirements' if variable else 'its requirements'} do not fit together"
            f"{', or not with those that Airflow is tested with' if variable == 'airflow_build' else ''}: change or"
            " remove the requirement that the error names."
        )
    return (
        "Where Debian's, Python's or Go's own servers cannot be reached from here, name mirrors in"
        " container_image_apt_mirror, container_image_pip_index and container_image_go_proxy, or a proxy in"
        " container_image_http_proxy."
    )


def certificate_files(directory: str) -> dict[str, str]:
    """Read the certificates that the base image is to trust.

    Args:
        directory: ``container_image_ca_dir`` on the controller; it need not exist.

    Returns:
        Path in the build context to content: every file whose name ends in ``.crt``, and a file that keeps the
        directory there if there is none.

    Raises:
        AnsibleFilterError: If one cannot be read, with the variable.
    """
    found = {"certificates/README": "Certificates of this network.\n"}
    for path in sorted(Path(directory).expanduser().glob("*.crt")):
        if path.is_file():
            try:
                found[f"certificates/{path.name}"] = as_text(path.read_bytes())
            except OSError as error:
                raise AnsibleFilterError(
                    f"{path} in container_image_ca_dir cannot be read: {error.strerror}."
                ) from None
    return found


def unreachable_mirrors(answers: Iterable[Mapping[str, Any]], mirrors: Mapping[str, str]) -> list[str]:
    """Find the sources of packages that do not answer.

    Args:
        answers: Results of ``ansible.builtin.uri`` in a loop over the names of the variables.
        mirrors: Name of a variable to the address that it names.

    Returns:
        A sentence for each, with the variable. Any answer will do: a mirror need not have a page.
    """
    return [
        f"{answer['item']} names {mirrors[answer['item']]}, which cannot be reached: {answer.get('msg', '')}."
        " Correct it, or name a proxy in container_image_http_proxy."
        for answer in answers
        if answer.get("status") == -1
    ]


def image_shares(
    hosts: Mapping[str, Mapping[str, Any]],
    host: str,
    build_host: str = "",
    others: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """Decide which images a host builds and which it gets from others, so that each is built once.

    Args:
        hosts: Hosts of the run in the order of the inventory, each with ``refs`` (name of each image that it needs to
            its reference), ``ids`` (reference to id of what its engine has) and ``parents`` (references of the images
            that those are built on).
        host: The one that asks. All get answers that fit together.
        build_host: Builds what nobody has. By default one host does too, so that all stands on the same base: the first
            that has a base, else the first that needs anything.
        others: Hosts of the stack that are not part of the run to the images of their engines, reference to id.

    Returns:
        ``build``, name to reference of what this host builds, for itself or for others; ``receive``, a host to the
        references that come from there; ``problems``, sentences.
    """
    ids: dict[str, Mapping[str, str]] = {name: each["ids"] for name, each in hosts.items()}
    ids |= others or {}
    order = [build_host, *hosts] if build_host in hosts else list(hosts)
    order = list(dict.fromkeys([*order, *(others or {})]))
    build: dict[str, str] = {}
    receive: dict[str, list[str]] = {}
    lost: list[str] = []
    wanted = {(name, ref) for each in hosts.values() for name, ref in each["refs"].items()}
    absent = {ref for _name, ref in wanted if not any(ref in ids[each] for each in order)}
    lacking = [each for each in order if each in hosts and absent & set(hosts[each]["refs"].values())]
    based = [each for each in order if each in hosts and set(hosts[each].get("parents", [])) & ids[each].keys()]
    builder = build_host or next(iter([*based, *lacking]), "")
    for name, ref in sorted(wanted):
        needing = [each for each in order if each in hosts and hosts[each]["refs"].get(name) == ref]
        having = [each for each in order if ref in ids[each]]
        # Hosts that mean different images by one name build their own.
        agreed = all(each["refs"].get(name, ref) == ref for each in hosts.values())
        source = having[0] if having else builder if agreed or build_host else needing[0]
        if source not in ids or (source not in hosts and not having):
            lost += [ref] if host in needing else []
        elif source == host and not having:
            build[name] = ref
        elif host in needing and source != host and (not having or ids[host].get(ref) != ids[source][ref]):
            receive.setdefault(source, []).append(ref)
    problems = []
    if lost:
        problems.append(
            f"container_image_build_host is {build_host}, which is not part of this run, and no host has"
            f" {', '.join(lost)}. Let the run include it, for example with --limit {host},{build_host}, or correct the"
            " name."
        )
    return {"build": build, "receive": receive, "problems": problems}


def different_images(offered: Mapping[str, Mapping[str, Any]], present: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Find the images that a host lacks, or has with another content.

    Args:
        offered: Reference to ``id`` and ``layers`` on the host that has them.
        present: The same of the host that needs them.

    Returns:
        References. The same layers are the same image: containerd's store gives it another id than the engine's own.
    """
    return [
        ref
        for ref, image in offered.items()
        if ref not in present or (image["id"] != present[ref]["id"] and image["layers"] != present[ref]["layers"])
    ]


def room_problem(host: str, needed: int, free: int, images: list[str]) -> str:
    """Compare the room that images need with what there is.

    Args:
        host: Name of the host.
        needed: Bytes of the unpacked images. They are there twice while they are loaded.
        free: Bytes that are free where the engine keeps images.
        images: Their references.

    Returns:
        A sentence if there is too little.
    """
    if free >= 2 * needed:
        return ""
    return (
        f"{host} has {free >> 20} MiB of free disk space where its engine keeps images, and loading {', '.join(images)}"
        f" takes {2 * needed >> 20} MiB. Free some, for example with docker image prune --all, and run this again."
    )

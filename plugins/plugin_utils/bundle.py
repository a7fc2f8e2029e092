# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds and judges bundles, from which hosts are set up without a network."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.source_files import COLLECTION

#: The form of bundles that this version reads; `tools/bundle.py` writes it.
FORMAT = 1
#: In each bundle.
DESCRIPTION = "bundle.json"
#: What the engine needs to load images, for each byte of them: it unpacks the archive beside its layers.
ROOM = 2.1
REMAKE = "Make the bundle again, with `make bundle` and this inventory"


def bundle_beside(name: str) -> str:
    """Find the bundle that this project was unpacked with.

    Args:
        name: Name of its directory in the project.

    Returns:
        Its path; nothing if there is none.
    """
    directory = os.path.join(os.path.realpath(COLLECTION), name)
    return directory if os.path.isfile(os.path.join(directory, DESCRIPTION)) else ""


def bundle_description(directory: str) -> dict[str, Any]:
    """Read what is in a bundle.

    Args:
        directory: ``stack_bundle_dir``; nothing if no bundle is used.

    Returns:
        ``version`` and ``revision`` of the project that it was made from, ``architecture`` (as ``uname -m`` says it),
        ``releases`` (codenames of those whose packages it has), ``images`` (references) and ``images_size`` (bytes,
        uncompressed). Nothing if no bundle is used.

    Raises:
        AnsibleFilterError: If there is no bundle, it cannot be read, or it has another form.
    """
    if not directory:
        return {}
    path = os.path.join(os.path.expanduser(directory), DESCRIPTION)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except OSError as error:
        raise AnsibleFilterError(
            f"stack_bundle_dir is {directory}, which is no bundle: {path} cannot be read ({error.strerror}). Unpack the"
            " archive of `make bundle`, and name the directory `bundle` in it."
        ) from None
    except ValueError:
        raise AnsibleFilterError(f"{path} is damaged. Unpack the archive of `make bundle` again.") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise AnsibleFilterError(
            f"stack_bundle_dir is {directory}, a bundle of a form that this version does not read. Use the project that"
            f" is in the bundle. {REMAKE} and this version, to use that one."
        )
    return found


def bundle_problems(
    bundle: Mapping[str, Any],
    report: Mapping[str, Any],
    directory: str,
    images: Iterable[str] = (),
    packages: Iterable[str] = (),
) -> list[str]:
    """Find out whether a bundle has what a host lacks.

    Args:
        bundle: What ``bundle_description`` returned.
        report: What ``host_report`` found on the host.
        directory: ``stack_bundle_dir``.
        images: References of images that the host lacks.
        packages: Names of packages that it lacks.

    Returns:
        A sentence for each problem.
    """
    images, packages = sorted(images), sorted(packages)
    if not bundle or not (images or packages):
        return []
    found = []
    made = f"The bundle {directory}, made from version {bundle['version']} ({bundle['revision']}),"
    if bundle["architecture"] != report["architecture"]:
        found.append(
            f"{made} is for {bundle['architecture']}, and this host's processor is {report['architecture']}. Make one"
            " on a machine with such a processor."
        )
    if packages and report["release"] not in bundle["releases"]:
        found.append(
            f"{made} has packages for {' and '.join(bundle['releases'])}, and this host runs"
            f" {report['distribution']} {report['release']}, which lacks {', '.join(packages)}. Install them, or make"
            " the bundle again with bundle_releases for this one."
        )
    lacking = [image for image in images if image not in bundle["images"]]
    if lacking:
        found.append(
            f"{made} lacks {', '.join(lacking)}, which this host needs. The files that it is made from, or settings of"
            f' images in the inventory, have changed since. {REMAKE}; or set stack_bundle_dir to "", to build images'
            " from the network."
        )
    if images and not lacking:
        needed = round(bundle["images_size"] * ROOM) // 2**20
        found += [
            f"{path} has {free} MiB free, and loading the images of the bundle takes {needed} there. Free some."
            for path, free in list(report["disk_free_mb"].items())[:1]
            if free < needed
        ]
    return found

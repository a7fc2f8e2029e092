"""What keeps a host from being set up from a bundle, each with its remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from collection_under_test import REPOSITORY, plugin

bundles = plugin("plugin_utils.bundle")

BUNDLE: dict[str, Any] = {
    "format": 1, "version": "0.1.0", "revision": "abc", "architecture": "x86_64", "releases": ["bookworm", "trixie"],
    "images": ["quantops/redis:1"], "images_size": 2**30,
}  # fmt: skip
REPORT: dict[str, Any] = {
    "architecture": "x86_64", "distribution": "debian", "release": "trixie", "disk_free_mb": {"/var/lib/docker": 50000},
}  # fmt: skip


@pytest.mark.parametrize(
    ("host", "images", "packages", "sentence"),
    [
        ({"architecture": "aarch64"}, ["quantops/redis:1"], [], "is for x86_64, and this host's processor is aarch64."),
        (
            {"release": "noble", "distribution": "ubuntu"},
            [],
            ["docker.io"],
            "ubuntu noble, which lacks docker.io. Install",
        ),
        ({}, ["quantops/redis:2"], [], "lacks quantops/redis:2, which this host needs."),
        ({"disk_free_mb": {"/srv": 100}}, ["quantops/redis:1"], [], "/srv has 100 MiB free, and loading the images"),
    ],
)
def test_a_bundle_that_does_not_fit(
    host: dict[str, Any], images: list[str], packages: list[str], sentence: str
) -> None:
    """Another processor, release or inventory, or a full disk."""
    [found] = bundles.bundle_problems(BUNDLE, REPORT | host, "/srv/bundle", images, packages)
    assert sentence in found


def test_a_host_that_lacks_nothing_needs_no_bundle() -> None:
    """Any will do, and none."""
    assert bundles.bundle_problems(BUNDLE, {**REPORT, "architecture": "aarch64"}, "/srv/bundle") == []
    assert bundles.bundle_problems({}, REPORT, "", ["quantops/redis:2"], ["docker.io"]) == []
    assert bundles.bundle_problems(BUNDLE, REPORT, "/srv/bundle", ["quantops/redis:1"], ["docker.io"]) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "which is no bundle: .*bundle.json cannot be read"),
        ("{", "is damaged. Unpack the archive"),
        ('{"format": 2}', "of a form that this version does not read"),
        ("[]", "of a form that this version does not read"),
    ],
)
def test_what_is_no_bundle(tmp_path: Path, text: str | None, sentence: str) -> None:
    """It is named, with what to do."""
    if text is not None:
        (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(AnsibleFilterError, match=sentence):
        bundles.bundle_description(str(tmp_path))


def test_what_a_bundle_says(tmp_path: Path) -> None:
    """As it was written; nothing where none is used."""
    (tmp_path / "bundle.json").write_text(json.dumps(BUNDLE))
    assert bundles.bundle_description(str(tmp_path)) == BUNDLE
    assert bundles.bundle_description("") == {}


def test_the_bundle_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the directory behind the link by which Ansible finds the collection."""
    assert bundles.bundle_beside("no-bundle") == ""
    project = tmp_path / "project"
    (project / "bundle").mkdir(parents=True)
    (tmp_path / "link").symlink_to(project)
    monkeypatch.setattr(bundles, "COLLECTION", str(tmp_path / "link"))
    assert bundles.bundle_beside("bundle") == ""
    (project / "bundle/bundle.json").write_text("{}")
    assert bundles.bundle_beside("bundle") == str(project / "bundle")


def test_the_form_is_the_one_that_is_written() -> None:
    """The program that makes bundles is not part of the collection."""
    assert f"\nFORMAT = {bundles.FORMAT}\n" in (REPOSITORY / "tools/bundle.py").read_text()

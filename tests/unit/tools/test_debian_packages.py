"""Packages of Debian: what is read from their files, the repository that is made of them, and how apt is asked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import debian_packages
import pytest

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Files: *
License: GPL-2+
 text
Files: debian/*
License: Expat
"""


def package(directory: Path, name: str, *, version: str = "1:2-3", copyright_text: str = "", link: str = "") -> Path:
    """A small package."""
    tree = directory / f"tree-{name}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: a <a@example.com>\n"
        f"Description: {name}\n more\n"
    )
    documents = tree / "usr/share/doc"
    documents.mkdir(parents=True)
    if link:
        (documents / name).symlink_to(link)
    else:
        (documents / name).mkdir()
        (documents / name / "copyright").write_text(copyright_text)
    file = directory / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, file], check=True, capture_output=True)
    return file


def test_what_a_package_says(tmp_path: Path) -> None:
    """Name, version and copyright; of one that shares its documents, whose they are."""
    one = package(tmp_path, "one", copyright_text=COPYRIGHT)
    assert debian_packages.described(one) == debian_packages.Package("one", "1:2-3", "all")
    assert debian_packages.short_licences(debian_packages.copyright_text(one, "one")) == ["Expat", "GPL-2+"]
    other = package(tmp_path, "other", link="one")
    assert debian_packages.copyright_text(other, "other") == "See one.\n"
    assert debian_packages.copyright_text(other, "nothing") == ""


def test_a_copyright_file_in_free_form() -> None:
    """It names no licence that a program could read."""
    assert debian_packages.short_licences("This is free software.\nLicense: see below\n") == []


def test_apt_installs_from_the_repository(tmp_path: Path) -> None:
    """apt reads what is written without a warning, takes a package, and refuses one that has changed since."""
    package(tmp_path, "one", copyright_text="x")
    changed = package(tmp_path, "two", copyright_text="x")
    debian_packages.make_repository(tmp_path, "trixie", "amd64")
    place = tmp_path / "apt"
    for name in ("lists", "archives"):
        (place / name / "partial").mkdir(parents=True)
    (place / "status").touch()
    (place / "sources.list").write_text(f"deb [trusted=yes] file:{tmp_path} ./\n")
    options = {
        "Dir::Etc::SourceList": place / "sources.list", "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": place / "lists", "Dir::State::status": place / "status",
        "Dir::Cache::Archives": place / "archives", "Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": "",
        "APT::Sandbox::User": "root", "APT::Architecture": "amd64", "Debug::NoLocking": "1",
        "Acquire::Languages": "none",
    }  # fmt: skip
    given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def apt_get(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["apt-get", "--yes", *given, *words],
            capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip

    for words in (["update"], ["install", "--download-only", "one"]):
        done = apt_get(*words)
        assert done.returncode == 0 and "W: " not in done.stderr, done.stdout + done.stderr
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    done = apt_get("install", "--download-only", "two")
    assert done.returncode != 0 and "Hash Sum mismatch" in done.stderr, done.stdout + done.stderr


FAKE = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
    *update*) {update} ;;
    *download*old=1*) echo "E: Version '1' for 'old' was not found" >&2; exit 100 ;;
    *download*gone*) echo "E: Unable to locate package gone" >&2; exit 100 ;;
    *indextargets*) printf '%s\\thttp://debian.example/%s/\\n' Debian debian Debian-Security security ;;
    *broken*) echo "E: Unable to fetch some archives" >&2; exit 100 ;;
    *) touch found_1_all.deb ;;
esac
"""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory, first in PATH, with an apt-get that knows what is in FAKE; what it was asked is in ``log``."""
    directory = tmp_path / "bin"
    directory.mkdir()

    def fake(update: str = "true") -> None:
        (directory / "apt-get").write_text(FAKE.format(log=tmp_path / "log", update=update))
        (directory / "apt-get").chmod(0o755)

    fake()
    monkeypatch.setattr(debian_packages, "KEYRING", directory)
    real = subprocess.run

    def run(words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        replaced = [str(directory / words[0]) if words[0] == "apt-get" else words[0], *words[1:]]
        return real(replaced, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(debian_packages.subprocess, "run", run)
    return directory


def asked(tmp_path: Path) -> list[str]:
    """What apt-get was asked."""
    return (tmp_path / "log").read_text().splitlines()


def test_versions_that_a_repository_has_no_more(apt: Path, tmp_path: Path) -> None:
    """A newer one is taken, and what is gone is passed over."""
    found = debian_packages.Apt(tmp_path / "root", "trixie", architecture="amd64")
    files = found.versions([("old", "1"), ("gone", "2"), ("there", "3")])
    assert [file.name for file in files] == ["found_1_all.deb"]
    assert asked(tmp_path)[-1] == "--quiet --yes download old there=3"


def test_packages_that_cannot_be_downloaded(apt: Path, tmp_path: Path) -> None:
    """apt's own words are the message."""
    found = debian_packages.Apt(tmp_path / "root", "trixie", architecture="amd64")
    with pytest.raises(debian_packages.PackagesError, match="install failed: E: Unable to fetch some archives"):
        found.closure(["broken"])
    with pytest.raises(debian_packages.PackagesError, match="download failed: E: Unable to fetch"):
        found.versions([("broken", "1")])


def test_the_sources(apt: Path, tmp_path: Path) -> None:
    """This machine's servers with security updates, or the mirror alone; nothing else of its configuration."""
    debian_packages.Apt(tmp_path / "one", "bookworm", architecture="amd64")
    assert "bookworm-security main" in (tmp_path / "one/sources.list").read_text()
    assert "http://debian.example/debian/ bookworm-updates main" in (tmp_path / "one/sources.list").read_text()
    debian_packages.Apt(tmp_path / "two", "bookworm", "http://mirror.example/debian", "amd64")
    lines = (tmp_path / "two/sources.list").read_text().splitlines()
    assert len(lines) == 1 and lines[0].endswith("http://mirror.example/debian bookworm main")
    settings = (tmp_path / "two/apt.conf").read_text()
    assert 'Dir::Etc::SourceParts "/dev/null";' in settings and 'Dir::Etc::Parts "/dev/null";' in settings


def test_a_machine_without_debians_sources(apt: Path, tmp_path: Path) -> None:
    """Such as one with Ubuntu needs a mirror to be named."""
    text = (apt / "apt-get").read_text()
    (apt / "apt-get").write_text(text.replace("Debian", "Ubuntu"))
    with pytest.raises(debian_packages.PackagesError, match="name a mirror of them in container_image_apt_mirror"):
        debian_packages.Apt(tmp_path / "root", "trixie", architecture="amd64")


def test_what_cannot_be_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with what to do."""
    with pytest.raises(debian_packages.PackagesError, match="Packages of noble cannot be bundled: bundle_releases may"):
        debian_packages.Apt(tmp_path, "noble")
    monkeypatch.setattr(debian_packages, "KEYRING", tmp_path / "none")
    with pytest.raises(debian_packages.PackagesError, match="apt-get install debian-archive-keyring"):
        debian_packages.Apt(tmp_path, "trixie")

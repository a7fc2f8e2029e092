"""Downloads Debian packages with everything that they depend on, for another release than this machine's too.

apt itself resolves and downloads, in a directory of its own: this machine's lists and packages are not touched.
"""

from __future__ import annotations

import datetime
import email.utils
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: Releases whose packages can be bundled, with the version of their Python.
RELEASES = {"bookworm": "3.11", "trixie": "3.13"}
#: What apt says of a version, or a whole package, that a repository has no more.
GONE = re.compile(r"E: (?:Version '[^']*' for '([^']+)' was not found|Unable to locate package (\S+))")
COPYRIGHT = "usr/share/doc/{}/copyright"


class PackagesError(Exception):
    """Packages cannot be downloaded; the message says why."""


@dataclass(frozen=True)
class Package:
    """A package as its file describes it."""

    name: str
    version: str
    architecture: str


class Apt:
    """apt in a directory of its own, for one release."""

    def __init__(self, root: Path, release: str, mirror: str = "", architecture: str = "") -> None:
        """Configure it.

        Args:
            root: A directory that it may fill.
            release: Codename of the release.
            mirror: Mirror of Debian's packages, which then is the only source; empty for the servers that this machine
                has its own packages from.
            architecture: As dpkg names it; empty for this machine's.

        Raises:
            PackagesError: The release is not known, or this machine lacks what is needed.
        """
        if release not in RELEASES:
            raise PackagesError(
                f"Packages of {release} cannot be bundled: bundle_releases may have {', '.join(sorted(RELEASES))}."
            )
        if not shutil.which("apt-get"):
            raise PackagesError("This machine has no apt-get: make the bundle on Debian or Ubuntu.")
        if not KEYRING.exists():
            raise PackagesError(f"{KEYRING} is missing: apt-get install debian-archive-keyring.")
        self.root = root.resolve()
        self.architecture = architecture or said(["dpkg", "--print-architecture"]).strip()
        for name in ("lists/partial", "archives/partial"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        # Nothing is installed there, so that what every Debian has is downloaded too, in the versions that fit.
        (self.root / "status").touch()
        suites = [f"{mirror} {release}"] if mirror else suites_here(release)
        (self.root / "sources.list").write_text(
            "".join(f"deb [signed-by={KEYRING}] {suite} main\n" for suite in suites)
        )
        # Proxies and authorities of this machine, and nothing else of its configuration.
        lines = said(["apt-config", "dump", "Acquire"]).splitlines()
        settings = {
            "Dir::State::Lists": self.root / "lists",
            "Dir::State::status": self.root / "status",
            "Dir::State::extended_states": self.root / "extended_states",
            "Dir::Cache::Archives": self.root / "archives",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "Dir::Etc::SourceList": self.root / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::Etc::Parts": "/dev/null",
            "Dir::Etc::Main": "/dev/null",
            "Dir::Log": self.root,
            "APT::Architecture": self.architecture,
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Debug::NoLocking": "1",
        }
        lines += [
            f'{name} "{value}";' for name, value in {**settings, "APT::Architectures::": self.architecture}.items()
        ]
        (self.root / "apt.conf").write_text("\n".join(lines) + "\n")
        self.run("update", "--error-on=any")

    def run(self, *words: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
        """Run apt-get.

        Args:
            words: Its arguments.
            fails: Whether it may fail.

        Returns:
            How it ended.

        Raises:
            PackagesError: It failed and may not.
        """
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C",
            "APT_CONFIG": str(self.root / "apt.conf"),
        }
        done = subprocess.run(
            ["apt-get", "--quiet", "--yes", *words],
            cwd=self.root / "archives",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode and not fails:
            errors = [line for line in done.stderr.splitlines() if line.startswith(("E: ", "W: "))]
            raise PackagesError(f"apt-get {words[0]} failed: {' '.join(errors) or done.stderr}")
        return done

    def closure(self, names: Iterable[str]) -> list[Path]:
        """Download packages with all that they depend on.

        Args:
            names: Names of packages.

        Returns:
            Their files.
        """
        self.run("install", "--download-only", "--no-install-recommends", *sorted(names))
        return self.files()

    def versions(self, packages: Iterable[tuple[str, str]]) -> list[Path]:
        """Download versions of packages, without what they depend on.

        Args:
            packages: Name and version of each. Where a repository has only a newer one, that is downloaded; what it has
                no more is passed over.

        Returns:
            Their files.
        """
        wanted: dict[str, str] = {name: f"{name}={version}" for name, version in packages}
        while wanted:
            done = self.run("download", *sorted(wanted.values()), fails=True)
            if done.returncode == 0:
                break
            gone = {name or other for name, other in GONE.findall(done.stderr)}
            if not gone & wanted.keys():
                raise PackagesError(f"apt-get download failed: {done.stderr.strip()}")
            for name in gone & wanted.keys():
                if wanted[name] == name:
                    del wanted[name]
                else:
                    wanted[name] = name
        return self.files()

    def files(self) -> list[Path]:
        """List what was downloaded.

        Returns:
            Files of packages.
        """
        return sorted((self.root / "archives").glob("*.deb"))


def suites_here(release: str) -> list[str]:
    """Name the suites of a release on the servers that this machine has its own packages from.

    Args:
        release: Codename of the release, which may be another than this machine's.

    Returns:
        Address and suite of each.

    Raises:
        PackagesError: This machine has no source of Debian's packages.
    """
    form = "$(LABEL)\t$(REPO_URI)"
    listed = said(["apt-get", "indextargets", "--format", form, "Created-By: Packages"]).splitlines()
    sources = dict(line.split("\t", 1) for line in reversed(listed) if "\t" in line)
    if "Debian" not in sources:
        raise PackagesError(
            "This machine has no source of Debian's packages, or apt-get update was not run: name a mirror of them in"
            " container_image_apt_mirror."
        )
    suites = [f"{sources['Debian']} {release}", f"{sources['Debian']} {release}-updates"]
    return suites + ([f"{sources['Debian-Security']} {release}-security"] if "Debian-Security" in sources else [])


def said(words: list[str]) -> str:
    """Run a command that must succeed.

    Args:
        words: The command.

    Returns:
        What it prints.

    Raises:
        PackagesError: It failed.
    """
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode:
        raise PackagesError(f"{' '.join(words[:3])} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace")


def described(file: Path) -> Package:
    """Read what a package is.

    Args:
        file: Its file.

    Returns:
        Name, version and architecture.
    """
    lines = said(["dpkg-deb", "--show", "--showformat=${Package}\n${Version}\n${Architecture}", str(file)]).split("\n")
    return Package(*lines[:3])


def copyright_text(file: Path, name: str) -> str:
    """Read the copyright file of a package.

    Args:
        file: The package's file.
        name: Its name.

    Returns:
        The text; nothing where its directory is another package's, as a link.
    """
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(file)], capture_output=True, check=False)
    if done.returncode:
        raise PackagesError(f"{file.name} cannot be read: {done.stderr.decode(errors='replace').strip()}")
    path = COPYRIGHT.format(name)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        members = {member.name.removeprefix("./"): member for member in tar}
        found = members.get(path)
        if found is not None and (found.isfile() or found.islnk() or found.issym()):
            try:
                opened = tar.extractfile(found)
            except KeyError:  # a link into another package
                opened = None
            if opened:
                return opened.read().decode(errors="replace")
        directory = members.get(path.rpartition("/")[0])
        if directory is not None and directory.issym():
            return f"See {directory.linkname}.\n"
    return ""


def short_licences(text: str) -> list[str]:
    """Find the licences that a copyright file names.

    Args:
        text: The file. Source of its form: Debian's machine-readable copyright format 1.0.

    Returns:
        Short names, sorted; nothing of a file in free form.
    """
    if not re.match(r"\s*Format(-Specification)?:", text):
        return []
    return sorted({each.strip() for each in re.findall(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE)})


def make_repository(directory: Path, release: str, architecture: str) -> None:
    """Make a directory of packages one that apt installs from.

    Args:
        directory: Directory with ``*.deb``; gets ``Packages`` and ``Release``.
        release: Codename of the release.
        architecture: As dpkg names it.
    """
    stanzas = []
    for file in sorted(directory.glob("*.deb")):
        content = file.read_bytes()
        fields = said(["dpkg-deb", "--field", str(file)]).rstrip("\n")
        digest = hashlib.sha256(content).hexdigest()
        stanzas.append(f"{fields}\nFilename: ./{file.name}\nSize: {len(content)}\nSHA256: {digest}\n")
    index = "\n".join(stanzas).encode()
    (directory / "Packages").write_bytes(index)
    (directory / "Release").write_text(
        f"Origin: quantops.ibkr_stack\nSuite: {release}\nCodename: {release}\nArchitectures: {architecture}\n"
        f"Date: {email.utils.format_datetime(datetime.datetime.now(datetime.UTC), usegmt=True)}\n"
        f"SHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n"
    )

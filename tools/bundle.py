#!/usr/bin/env python3
"""Write the parts of a bundle, from which `make up` works without a network; `playbooks/bundle.yml` calls it.

Usage: ``bundle.py STEP WORK``. WORK is a directory with ``plan.json``, which says what belongs into the bundle; each
step adds its part below it, and the last one writes the archive. Steps, in their order: ``project``, ``images`` (reads
``images.tar``, which ``docker save`` wrote), ``packages``, ``wheels``, ``bills``, ``archive``.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import archive
import debian_packages
import image_contents

#: Number of this form of bundles.
FORMAT = 1
#: Directory of the bundle's parts in the project; the roles look there.
PARTS = "bundle"
#: What the machine that installs a bundle on itself needs, and the hosts to read the images.
CONTROLLER_PACKAGES = ("make", "python3-venv")
HOST_PACKAGES = ("zstd",)
#: The oldest and newest glibc that wheels may ask for, by its second number: that of Debian 12.
GLIBC = range(17, 37)
#: An encrypted file, or a value in one.
VAULT = b"$ANSIBLE_VAULT"
#: What may hold secrets, wherever it is in an inventory.
SECRET_SUFFIXES = (".key", ".pem", ".p12", ".pfx", ".jks", ".gpg")


class BundleError(Exception):
    """The bundle cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Work:
    """A bundle that is being made."""

    directory: Path

    @cached_property
    def plan(self) -> dict[str, Any]:
        """What belongs into it."""
        return json.loads((self.directory / "plan.json").read_text(encoding="utf-8"))

    @property
    def top(self) -> Path:
        """The directory that the archive holds."""
        return self.directory / self.plan["name"]

    @property
    def parts(self) -> Path:
        """The directory of the bundle's parts."""
        return self.top / PARTS

    @property
    def contents(self) -> Path:
        """The file that says what is in the images."""
        return self.directory / "contents.json"


def run(words: list[str | Path], **options: Any) -> str:
    """Run a command that must succeed.

    Args:
        words: The command.
        options: Of ``subprocess.run``.

    Returns:
        What it prints.

    Raises:
        BundleError: It failed, with what it said; or there is no such program.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    except FileNotFoundError:
        raise BundleError(f"{words[0]} is missing on this machine.") from None
    if done.returncode:
        raise BundleError(f"{' '.join(str(word) for word in words[:4])} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def listed_files(root: Path, *which: str) -> list[str]:
    """List files of the project as git knows them.

    Args:
        root: The project.
        which: Options of ``git ls-files``.

    Returns:
        Paths relative to it, of files that are there.

    Raises:
        BundleError: It is no clone.
    """
    done = subprocess.run(["git", "-C", root, "ls-files", "-z", *which], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BundleError(
            f"{root} is no clone of the project, or git refuses it: {done.stderr.strip()} A bundle holds the files that"
            " git tracks, so that nothing else gets into it."
        )
    return [name for name in done.stdout.split("\0") if name and os.path.lexists(root / name)]


def copy_tracked(root: Path, target: Path) -> list[str]:
    """Copy the project's files as they are, changed ones too. What somebody keeps beside them is none.

    Args:
        root: The project.
        target: Directory for them.

    Returns:
        Files that are neither tracked nor ignored, and so are left out.
    """
    for name in listed_files(root, "--cached"):
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, place, follow_symlinks=False)
    return listed_files(root, "--others", "--exclude-standard")


def copy_inventory(source: Path, target: Path, secrets: Iterable[Path]) -> list[str]:
    """Copy an inventory without what is secret in it.

    Args:
        source: Its directory, or its file: variables beside that belong to it.
        target: Where it goes.
        secrets: Directories of secrets, wherever they are.

    Returns:
        What was left out: hidden files, those that keys are kept in, encrypted ones, links to directories, and the
        secrets of the stack.
    """
    hidden = {path.resolve() for path in secrets}
    left_out: list[str] = []

    def copy(path: Path, place: Path, name: str) -> None:
        """Copy a file, or a directory with all that is in it."""
        # Its files may be anywhere, and it may lead into itself.
        linked = path.is_symlink() and path.is_dir()
        secret = linked or path.name.startswith(".") or path.resolve() in hidden or path.suffix in SECRET_SUFFIXES
        if secret or (path.is_file() and VAULT in path.read_bytes()):
            left_out.append(name)
        elif path.is_dir():
            for inner in sorted(path.iterdir()):
                copy(inner, place / inner.name, f"{name}/{inner.name}")
        elif path.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)

    chosen = (
        sorted(source.iterdir())
        if source.is_dir()
        else [source, *(source.parent / name for name in ("group_vars", "host_vars"))]
    )
    for path in chosen:
        copy(path, target / path.name if source.is_dir() else target.parent / path.name, path.name)
    return left_out


def inventory_place(inventory: Path, root: Path) -> str:
    """Name where an inventory is in the bundle.

    Args:
        inventory: Its directory or file.
        root: The project.

    Returns:
        Path relative to the project: the same where it is below it, else one in ``inventories``.
    """
    resolved = inventory.resolve()
    if resolved.is_relative_to(root):
        return str(resolved.relative_to(root))
    parts = (resolved.name,) if resolved.is_dir() else (resolved.parent.name, resolved.name)
    return str(Path("inventories", *parts))


def project(work: Work) -> list[str]:
    """Add the project, the collection's archive, and the inventory if it is asked for.

    Args:
        work: The bundle.

    Returns:
        Lines for the operator.

    Raises:
        BundleError: The disk is too full, or the project is no clone.
    """
    # The images as saved, compressed, and in the archive; packages, wheels, and what they are made from.
    needed = 2 * work.plan["images_size"] + 2**30
    free = shutil.disk_usage(work.directory).free
    if free < needed:
        raise BundleError(
            f"{work.directory.parent} has {free // 2**20} MiB free, and making the bundle takes up to"
            f" {needed // 2**20}. Free some, or name another directory with BUNDLE."
        )
    untracked = copy_tracked(archive.ROOT, work.top)
    lines = [f"Left out, because git does not track them: {', '.join(untracked)}."] if untracked else []
    work.parts.mkdir(parents=True, exist_ok=True)
    shutil.copy2(archive.ROOT / "tools" / "bundle_install", work.parts / "install")
    (work.parts / "architecture").write_text(f"{platform.machine()}\n")
    collection = work.parts / "collection"
    collection.mkdir()
    built = archive.build(work.directory)
    built.rename(collection / built.name)
    # What the images trust is part of their names: see container_image_ca_dir.
    certificates = work.parts / "certificates"
    certificates.mkdir()
    for path in sorted(Path(work.plan["certificates"]).expanduser().glob("*.crt")):
        shutil.copyfile(path, certificates / path.name)
    if not work.plan["inventory"]:
        return lines
    inventory = Path(work.plan["inventory"])
    place = inventory_place(inventory, archive.ROOT)
    left_out = copy_inventory(inventory, work.top / place, [Path(path) for path in work.plan["secrets"]])
    return [*lines, f"The inventory is {place}.", *([f"Left out of it: {', '.join(left_out)}."] if left_out else [])]


def images(work: Work) -> list[str]:
    """List what is in the images, and compress them.

    Args:
        work: The bundle.

    Returns:
        Lines for the operator.

    Raises:
        BundleError: An image is not in the archive.
    """
    saved = work.directory / "images.tar"
    found = image_contents.read_images(saved)
    missing = set(work.plan["images"]) - {image.reference for image in found}
    if missing:
        raise BundleError(f"docker save left out {', '.join(sorted(missing))}.")
    size = saved.stat().st_size
    run(["zstd", "--quiet", "-6", "--threads=0", "--rm", "--force", saved, "-o", work.parts / "images.tar.zst"])
    described: dict[str, Any] = {"size": size, "images": []}
    texts = work.directory / "texts"
    for number, image in enumerate(found):
        described["images"].append({**asdict(image), "licences": sorted(image.licences)})
        for name, text in image.licences.items():
            file = texts / str(number) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text)
    work.contents.write_text(json.dumps(described), encoding="utf-8")
    compressed = (work.parts / "images.tar.zst").stat().st_size
    return [f"{len(found)} images, {size // 10**6} MB, compressed to {compressed // 10**6} MB."]


def packages(work: Work) -> list[str]:
    """Download the Debian packages of the hosts and the controller, for each release.

    Args:
        work: The bundle.

    Returns:
        Lines for the operator.
    """
    lines = []
    for release, names in work.plan["packages"].items():
        apt = debian_packages.Apt(work.directory / "apt" / release, release, work.plan["mirror"])
        directory = work.parts / "packages" / release
        directory.mkdir(parents=True)
        size = 0
        for file in apt.closure([*names, *HOST_PACKAGES, *CONTROLLER_PACKAGES]):
            # A colon in a version becomes %3a in the name, which in an address is a colon again.
            shutil.move(file, directory / file.name.replace("%3a", "-"))
            size += (directory / file.name.replace("%3a", "-")).stat().st_size
        debian_packages.make_repository(directory, release, apt.architecture)
        lines.append(f"{len(list(directory.glob('*.deb')))} packages for {release}, {size // 10**6} MB.")
    return lines


def wheels(work: Work) -> list[str]:
    """Download the wheels of the controller's environment, for the Python of each release.

    Args:
        work: The bundle.

    Returns:
        Lines for the operator.
    """
    directory = work.parts / "wheels"
    directory.mkdir()
    machine = platform.machine()
    locks = [
        archive.ROOT / "requirements" / "controller.lock",
        archive.ROOT / "roles" / "container_image" / "files" / "python-build" / "uv.lock",
    ]
    for release in work.plan["packages"]:
        version = debian_packages.RELEASES[release]
        for number, lock in enumerate(locks):
            # pip judges the markers of a requirement by its own Python; uv by the one that is wanted.
            chosen = work.directory / f"{release}-{number}.lock"
            run([
                Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet", "--no-deps", "--generate-hashes",
                "--no-header", "--no-annotate", f"--python-version={version}",
                f"--python-platform={machine}-manylinux_2_36", lock, "-o", chosen,
            ])  # fmt: skip
            platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in reversed(GLIBC)]
            run([
                sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--require-hashes", "--only-binary=:all:", "--implementation=cp", f"--python-version={version}",
                *platforms, f"--platform=manylinux2014_{machine}", f"--dest={directory}", f"--requirement={chosen}",
            ])  # fmt: skip
    files = list(directory.iterdir())
    return [f"{len(files)} wheels, {sum(file.stat().st_size for file in files) // 10**6} MB."]


def bills(work: Work) -> list[str]:
    """Write the bills of materials and the licences.

    Args:
        work: The bundle.

    Returns:
        Lines for the operator.
    """
    # Only this step needs its library.
    import bill_of_materials
    from cyclonedx.model.component import ComponentType

    described = json.loads(work.contents.read_text(encoding="utf-8"))["images"]
    licences = bill_of_materials.Licences(work.parts / "licences")
    components: dict[str, list[image_contents.Component]] = {}
    of_images: dict[str, set[tuple[str, str]]] = {}
    for number, image in enumerate(described):
        parts = components[image["reference"]] = [image_contents.Component(**each) for each in image["components"]]
        name = short_name(image["reference"])
        for part in parts:
            site = Path(part.path).parent.name.removesuffix(".dist-info")
            texts = {
                text.partition("/")[2]: (work.directory / "texts" / str(number) / text).read_bytes()
                for text in (image["licences"] if part.kind == "pypi" else [])
                if text.startswith(f"{site}/")
            }
            licences.add_texts(part, name, texts) if texts else licences.add(part, name)
            if (
                part.kind == "deb"
                and image["distribution"] == "debian"
                and image["release"] in debian_packages.RELEASES
            ):
                of_images.setdefault(image["release"], set()).add((part.name, part.version))
    hosts: dict[str, list[image_contents.Component]] = {}
    for release in work.plan["packages"]:
        hosts[release] = []
        for file in sorted((work.parts / "packages" / release).glob("*.deb")):
            package = debian_packages.described(file)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            part = image_contents.Component(
                "deb", package.name, package.version, architecture=package.architecture, sha256=digest
            )
            hosts[release].append(part)
            licences.add(part, release)
    controller = []
    for file in sorted((work.parts / "wheels").glob("*.whl")):
        part, texts = bill_of_materials.wheel_contents(file)
        controller.append(part)
        licences.add_texts(part, "controller", texts)
    # The images leave documents out, the copyright files too.
    for release, wanted in of_images.items():
        apt = debian_packages.Apt(work.directory / "apt" / f"{release}-images", release, work.plan["mirror"])
        for file in apt.versions(wanted):
            licences.add_copyright(file)
    for release in work.plan["packages"]:
        for file in sorted((work.parts / "packages" / release).glob("*.deb")):
            licences.add_copyright(file)
    licences.follow()
    licences.write()
    directory = work.parts / "sbom"
    directory.mkdir()
    for image in described:
        repository, _separator, tag = image["reference"].rpartition(":")
        text = bill_of_materials.bill(
            repository, tag, components[image["reference"]], digest=image["digest"], distribution=image["distribution"],
            release_version=image["version"], named=licences.named,
        )  # fmt: skip
        (directory / f"{short_name(image['reference'])}.cdx.json").write_text(text, encoding="utf-8")
    version = work.plan["version"]
    for release, parts in hosts.items():
        text = bill_of_materials.bill(
            f"packages for hosts with {release}", version, parts, kind=ComponentType.APPLICATION, distribution="debian",
            release_version=release, named=licences.named,
        )  # fmt: skip
        (directory / f"host-{release}.cdx.json").write_text(text, encoding="utf-8")
    text = bill_of_materials.bill("controller", version, controller, kind=ComponentType.APPLICATION)
    (directory / "controller.cdx.json").write_text(text, encoding="utf-8")
    without = sum(
        1
        for (kind, *_key), row in licences.rows.items()
        if kind in ("deb", "pypi") and not row["licence"] and not row["text"]
    )
    return [
        f"{len(licences.rows)} components; {without} packages of Debian or Python are without any word of a licence."
    ]


def short_name(reference: str) -> str:
    """Name the files of an image.

    Args:
        reference: Repository, name and tag.

    Returns:
        The name that no other image has, without slashes and colons.
    """
    return reference.replace("/", "-").replace(":", "-")


def sha256(path: Path) -> str:
    """Hash a file.

    Args:
        path: The file.

    Returns:
        Its SHA-256, in hexadecimal.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(top: Path) -> str:
    """Hash everything that is to stay as it is: inventories are the operator's to change.

    Args:
        top: The bundle's directory.

    Returns:
        Lines as ``sha256sum`` writes them, with paths relative to the directory.
    """
    files = sorted(path for path in top.rglob("*") if path.is_file() and not path.is_symlink())
    names = [(path, path.relative_to(top).as_posix()) for path in files]
    return "".join(
        f"{sha256(path)}  {name}\n"
        for path, name in names
        if not name.startswith("inventories/") and name != f"{PARTS}/SHA256SUMS"
    )


def revision(root: Path) -> str:
    """Name the project's revision.

    Args:
        root: The project.

    Returns:
        What git calls it, with ``-dirty`` where files have changed since.
    """
    return run(["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12"]).strip()


def write_archive(work: Work) -> list[str]:
    """Describe the bundle, add the checksums, and write the archive; it has its name once it is whole.

    Args:
        work: The bundle.

    Returns:
        Lines for the operator.
    """
    contents = json.loads(work.contents.read_text(encoding="utf-8"))
    described = {
        "format": FORMAT,
        "version": work.plan["version"],
        "revision": revision(archive.ROOT),
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "architecture": platform.machine(),
        "releases": list(work.plan["packages"]),
        "images": sorted(image["reference"] for image in contents["images"]),
        "images_size": contents["size"],
    }
    (work.parts / "bundle.json").write_text(f"{json.dumps(described, indent=2)}\n", encoding="utf-8")
    (work.parts / "SHA256SUMS").write_text(checksums(work.top), encoding="utf-8")
    target = Path(work.plan["archive"])
    written = work.directory / target.name

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        """Leave out who made the bundle, and bits that would let others write."""
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with written.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(work.top, arcname=work.top.name, filter=anonymous)
        file.flush()
        os.fsync(file.fileno())
    digest, size = sha256(written), written.stat().st_size
    note = written.with_name(f"{target.name}.sha256")
    note.write_text(f"{digest}  {target.name}\n")
    # The work is on the same file system: each appears whole.
    note.replace(target.with_name(note.name))
    written.replace(target)
    return [f"{target}: {size // 10**6} MB", f"SHA-256 {digest}"]


STEPS: dict[str, Callable[[Work], list[str]]] = {
    "project": project,
    "images": images,
    "packages": packages,
    "wheels": wheels,
    "bills": bills,
    "archive": write_archive,
}


def main() -> int:
    """Run a step.

    Returns:
        1 if it failed; standard error says why.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("work", type=Path)
    arguments = parser.parse_args()
    try:
        lines = STEPS[arguments.step](Work(arguments.work.resolve()))
    except (BundleError, debian_packages.PackagesError, image_contents.ContentsError) as error:
        print(error, file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"{error.name} is missing: make .venv/bundle installs it.", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())

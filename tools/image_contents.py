"""Reads what is in container images from an archive of ``docker save``: packages, programs, and their licences.

Nothing of the images is run, and the engine is not asked: what is listed is what the archive holds.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import IO, Any

#: Starts what the Go linker writes about modules into a program. Source: debug/buildinfo of Go's standard library.
GO_MAGIC = b"\xff Go buildinf:"
#: Go's flag for strings that follow the header itself, as all versions since 1.18 write them.
GO_INLINE = 2
GO_HEADER = 32
#: What Go puts around the list of modules.
GO_SENTINEL = 16
ELF = b"\x7fELF"
#: A layer's mark of a file that it removes, and of a directory that it empties. Source: OCI image specification.
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
LICENCE_FILE = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)[^/]*", re.IGNORECASE)
#: Python packages there are Debian's, which dpkg knows.
DEBIANS_PYTHON = "usr/lib/python3/dist-packages/"


class ContentsError(Exception):
    """An archive cannot be read; the message says why."""


@dataclass(frozen=True)
class Component:
    """Something that is in an image."""

    #: ``deb``, ``pypi``, ``golang``, ``maven`` or ``file``.
    kind: str
    name: str
    version: str
    #: Licence as the package itself states it.
    licence: str = ""
    #: Of a Debian package.
    architecture: str = ""
    #: Where it was found; of a Debian package nothing.
    path: str = ""
    #: Of a file that belongs to no package.
    sha256: str = ""


@dataclass
class Image:
    """What is in one image."""

    reference: str
    digest: str
    #: ``ID`` and ``VERSION_CODENAME`` of os-release.
    distribution: str = ""
    release: str = ""
    version: str = ""
    components: list[Component] = field(default_factory=list)
    #: Texts of licences of Python packages: a name that is one component's to the text.
    licences: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """A file of a layer that says something."""

    #: ``text``, ``licence``, ``go``, ``jar`` or ``program``.
    kind: str
    content: Any


@dataclass
class Layer:
    """What one layer brings and removes."""

    files: dict[str, Found] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    emptied: set[str] = field(default_factory=set)


def wanted_text(path: str) -> bool:
    """Tell whether a file says what is installed.

    Args:
        path: Path in the image, without a slash first.

    Returns:
        Whether its text is wanted.
    """
    return (
        path in ("var/lib/dpkg/status", "etc/os-release", "usr/lib/os-release")
        or (path.startswith("var/lib/dpkg/info/") and path.endswith(".list"))
        or path.endswith((".dist-info/METADATA", ".dist-info/RECORD", ".egg-info/PKG-INFO"))
    )


def licence_text(path: str) -> bool:
    """Tell whether a file is the text of a licence of a Python package.

    Args:
        path: Path in the image or in a wheel.

    Returns:
        Whether it is.
    """
    directory, _separator, below = path.partition(".dist-info/")
    return bool(directory and below and (below.startswith("licenses/") or LICENCE_FILE.fullmatch(below)))


def varint(data: bytes, position: int) -> tuple[int, int]:
    """Read an unsigned number of variable length.

    Args:
        data: Bytes.
        position: Where it begins.

    Returns:
        The number and the position after it.

    Raises:
        ValueError: There is none.
    """
    value = shift = 0
    while shift < 64:
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("no number")


def go_modules(data: bytes) -> list[tuple[str, str]]:
    """Find the modules that a Go program is built from.

    Args:
        data: The program.

    Returns:
        Name and version of each, the main module first and Go's standard library last; nothing if it is not Go's, or
        older than Go 1.18. The version of a main module that was built from a directory is ``(devel)``.
    """
    position = data.find(GO_MAGIC)
    while position >= 0:
        try:
            found = _go_modules_at(data, position)
        except ValueError:  # programs that read others hold the mark too
            found = []
        if found:
            return found
        position = data.find(GO_MAGIC, position + 1)
    return []


def _go_modules_at(data: bytes, position: int) -> list[tuple[str, str]]:
    """Read the list of modules behind a mark; see ``go_modules``."""
    header = data[position : position + GO_HEADER]
    if len(header) < GO_HEADER or not header[len(GO_MAGIC) + 1] & GO_INLINE:
        return []
    length, start = varint(data, position + GO_HEADER)
    version = data[start : start + length].decode()
    length, start = varint(data, start + length)
    text = data[start + GO_SENTINEL : start + length - GO_SENTINEL].decode(errors="replace")
    modules: list[tuple[str, str]] = []
    for line in text.splitlines():
        kind, *rest = line.split("\t")
        if kind in ("mod", "dep") and len(rest) >= 2:
            modules.append((rest[0], rest[1]))
        elif kind == "=>" and len(rest) >= 2 and modules:
            modules[-1] = (rest[0], rest[1])
    return [*modules, ("stdlib", version.partition(" ")[0].removeprefix("go"))] if modules else []


def jar_component(content: bytes, path: str) -> Component | None:
    """Name what a Java archive is.

    Args:
        content: The archive.
        path: Where it is.

    Returns:
        What its Maven coordinates or its manifest say, else its file name; nothing if it is no archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as jar:
            coordinates = [name for name in jar.namelist() if re.fullmatch(r"META-INF/maven/.*/pom\.properties", name)]
            # Several belong to an archive that holds others.
            if len(coordinates) == 1:
                lines = jar.read(coordinates[0]).decode(errors="replace").splitlines()
                said = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
                if "artifactId" in said and "version" in said:
                    name = f"{said.get('groupId', said['artifactId'])}/{said['artifactId']}"
                    return Component("maven", name, said["version"].strip(), path=path)
            manifest = (
                jar.read("META-INF/MANIFEST.MF").decode(errors="replace")
                if "META-INF/MANIFEST.MF" in jar.namelist()
                else ""
            )
    except zipfile.BadZipFile:
        return None
    version = re.search(r"^(?:Bundle|Implementation)-Version: *(\S+)", manifest, re.MULTILINE)
    stem = PurePosixPath(path).stem
    return Component("maven", f"{stem}/{stem}", version[1] if version else "", path=path)


def read_layer(layer: IO[bytes]) -> Layer:
    """Read what of a layer says what is installed.

    Args:
        layer: The layer, as a tar archive that may be compressed.

    Returns:
        What was found.
    """
    read = Layer()
    with tarfile.open(fileobj=layer, mode="r:*") as tar:
        for member in tar:
            path = member.name.removeprefix("./").strip("/")
            directory, _separator, name = path.rpartition("/")
            if name == OPAQUE:
                read.emptied.add(directory)
            elif name.startswith(WHITEOUT):
                read.removed.add(f"{directory}/{name[len(WHITEOUT) :]}".strip("/"))
            elif member.isfile() and (opened := tar.extractfile(member)):
                found = read_file(path, member, opened)
                if found:
                    read.files[path] = found
    return read


def read_file(path: str, member: tarfile.TarInfo, opened: IO[bytes]) -> Found | None:
    """Read a file, if it says something.

    Args:
        path: Path in the image.
        member: Its entry in the layer.
        opened: Its content.

    Returns:
        What it says, or nothing.
    """
    if wanted_text(path):
        return Found("text", opened.read().decode(errors="replace"))
    if licence_text(path):
        return Found("licence", opened.read())
    if path.endswith(".jar"):
        return Found("jar", opened.read())
    if member.mode & 0o111 and member.size > len(ELF):
        start = opened.read(len(ELF))
        if start == ELF:
            content = start + opened.read()
            modules = go_modules(content)
            if modules:
                return Found("go", modules)
            return Found("program", hashlib.sha256(content).hexdigest())
    return None


def merged(layers: list[Layer]) -> dict[str, Found]:
    """Lay layers over each other.

    Args:
        layers: The lowest first.

    Returns:
        Path to what it says, of the files that are left.
    """
    files: dict[str, Found] = {}
    for layer in layers:
        if layer.removed or layer.emptied:
            gone = tuple(f"{path}/" for path in layer.removed | layer.emptied)
            files = {
                path: found for path, found in files.items() if path not in layer.removed and not path.startswith(gone)
            }
        files.update(layer.files)
    return files


def headers(text: str) -> dict[str, list[str]]:
    """Read a text of headers, such as a stanza of dpkg or the metadata of a Python package.

    Args:
        text: The text.

    Returns:
        Name to values.
    """
    parsed: dict[str, list[str]] = {}
    for name, value in HeaderParser().parsestr(text).items():
        parsed.setdefault(name, []).append(str(value))
    return parsed


def stated_licence(metadata: dict[str, list[str]]) -> str:
    """Find the licence that a Python package states.

    Args:
        metadata: Its headers.

    Returns:
        An SPDX expression or the package's own words; nothing where it states none.
    """
    for name in ("License-Expression", "License"):
        said = metadata.get(name, [""])[0].strip()
        # Some put the whole text there.
        if said and "\n" not in said and len(said) <= 80 and said != "UNKNOWN":
            return said
    stated = [each.split("::")[-1].strip() for each in metadata.get("Classifier", []) if each.startswith("License ::")]
    return " AND ".join(each for each in stated if each != "OSI Approved")


def debian_packages(status: str) -> Iterator[Component]:
    """Read dpkg's list of packages.

    Args:
        status: Its file.

    Yields:
        The installed ones.
    """
    for stanza in status.split("\n\n"):
        said = headers(stanza.strip("\n"))
        if said.get("Status", [""])[0].endswith(" installed"):
            yield Component(
                "deb", said["Package"][0], said["Version"][0], architecture=said.get("Architecture", [""])[0]
            )


def owned(files: dict[str, Found]) -> set[str]:
    """Find the files that a package of Debian or Python brought.

    Args:
        files: What was found in an image.

    Returns:
        Paths, without ``usr/`` first: Debian moved files there, and its lists name the former place.
    """
    known: set[str] = set()
    for path, found in files.items():
        if path.startswith("var/lib/dpkg/info/"):
            known.update(line.strip("/").removeprefix("usr/") for line in found.content.splitlines())
        elif path.endswith(".dist-info/RECORD"):
            site = PurePosixPath(path).parents[1]
            for line in found.content.splitlines():
                parts: list[str] = []
                for part in (site / line.split(",")[0].strip('"')).parts:
                    parts = parts[:-1] if part == ".." else [*parts, part]
                known.add("/".join(parts).removeprefix("usr/"))
    return known


def image_components(files: dict[str, Found]) -> Iterator[Component]:
    """List what is in an image.

    Args:
        files: What was found in it.

    Yields:
        Each component once.
    """
    known = owned(files)
    if "var/lib/dpkg/status" in files:
        yield from debian_packages(files["var/lib/dpkg/status"].content)
    for path, found in sorted(files.items()):
        if path.endswith((".dist-info/METADATA", ".egg-info/PKG-INFO")) and not path.startswith(DEBIANS_PYTHON):
            said = headers(found.content)
            if "Name" in said and "Version" in said:
                yield Component("pypi", said["Name"][0], said["Version"][0], stated_licence(said), path=f"/{path}")
        elif found.kind == "go":
            for name, version in found.content:
                yield Component("golang", name, "" if version == "(devel)" else version, path=f"/{path}")
        elif path.removeprefix("usr/") in known:
            continue
        elif found.kind == "jar" and (jar := jar_component(found.content, f"/{path}")):
            yield jar
        elif found.kind == "program" and ".so" not in PurePosixPath(path).suffixes:
            yield Component("file", PurePosixPath(path).name, "", path=f"/{path}", sha256=found.content)


def read_images(archive: Path) -> list[Image]:
    """Read all images of an archive.

    Args:
        archive: What ``docker save`` wrote, uncompressed.

    Returns:
        The images, in the order of their names.

    Raises:
        ContentsError: It is not whole, or no such archive.
    """
    layers: dict[str, Layer] = {}
    images = []
    try:
        with tarfile.open(archive) as tar:

            def opened(name: str) -> IO[bytes]:
                """Open a file of the archive; a layer may be a link to another image's."""
                file = tar.extractfile(name)
                if file is None:
                    raise KeyError(name)
                return file

            for entry in json.load(opened("manifest.json")):
                for name in entry["Layers"]:
                    if name not in layers:
                        layers[name] = read_layer(opened(name))
                files = merged([layers[name] for name in entry["Layers"]])
                release = files.get("etc/os-release") or files.get("usr/lib/os-release") or Found("text", "")
                said = dict(line.split("=", 1) for line in release.content.splitlines() if "=" in line)
                digest = hashlib.sha256(opened(entry["Config"]).read()).hexdigest()
                for reference in entry["RepoTags"] or []:
                    image = Image(
                        reference,
                        f"sha256:{digest}",
                        said.get("ID", "").strip('"'),
                        said.get("VERSION_CODENAME", "").strip('"'),
                        said.get("VERSION_ID", "").strip('"'),
                        list(dict.fromkeys(image_components(files))),
                    )
                    for path, found in files.items():
                        if found.kind == "licence":
                            site, _separator, below = path.partition(".dist-info/")
                            image.licences[f"{PurePosixPath(site).name}/{below}"] = found.content
                    images.append(image)
    except (tarfile.TarError, KeyError, ValueError, EOFError, OSError) as error:
        raise ContentsError(f"{archive} cannot be read as an archive of images: {error}") from error
    return sorted(images, key=lambda image: image.reference)

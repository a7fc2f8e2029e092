"""What is found in an archive of images, layer by layer."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import image_contents
import pytest

STATUS = """Package: curl
Status: install ok installed
Architecture: amd64
Version: 8.1-2

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
METADATA = "Metadata-Version: 2.4\nName: Some_Package\nVersion: 1.0\nLicense-Expression: MIT\n\nA description: long.\n"
SITE = "opt/venv/lib/python3.13/site-packages"


def tar_of(files: dict[str, bytes | str], mode: int = 0o644) -> bytes:
    """A tar archive of files; a text that begins with ``->`` is a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mode = mode
            if isinstance(content, str) and content.startswith("->"):
                member.type, member.linkname = tarfile.SYMTYPE, content[2:]
                tar.addfile(member)
                continue
            content = content.encode() if isinstance(content, str) else content
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def saved(path: Path, layers: dict[str, bytes], tags: dict[str, list[str]], **more: bytes | str) -> Path:
    """An archive as ``docker save`` writes it: names of images to names of layers."""
    files: dict[str, bytes | str] = {**layers, **more}
    manifest: list[dict[str, Any]] = []
    for tag, names in tags.items():
        config = json.dumps({"of": tag})
        name = f"{hashlib.sha256(config.encode()).hexdigest()}.json"
        files[name] = config
        manifest.append({"Config": name, "RepoTags": [tag], "Layers": names})
    path.write_bytes(tar_of({**files, "manifest.json": json.dumps(manifest)}))
    return path


def number(value: int) -> bytes:
    """A number as Go writes it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def go_program(modules: str, version: str = "go1.24.4") -> bytes:
    """A program with Go's list of modules; the mark stands in it once more, as in programs that read others."""
    text = b"0" * 16 + modules.encode() + b"1" * 16
    header = image_contents.GO_MAGIC + bytes([8, image_contents.GO_INLINE])
    header = header.ljust(image_contents.GO_HEADER, b"\0")
    info = header + number(len(version)) + version.encode() + number(len(text)) + text
    return image_contents.ELF + image_contents.GO_MAGIC + b"\xff" * 40 + info + b"rest"


GO = go_program(
    "path\texample.com/a\nmod\texample.com/a\t(devel)\t\ndep\tb.org/c\tv1.2.0\th1:x\n=>\td.org/c\tv1.3.0\th1:y\n"
)


def names(image: image_contents.Image, kind: str) -> list[tuple[str, str]]:
    """Names and versions of components of a kind."""
    return [(each.name, each.version) for each in image.components if each.kind == kind]


def test_what_an_image_holds(tmp_path: Path) -> None:
    """Packages of Debian and Python, modules of Go programs, and programs that nobody brought, in shared layers."""
    base = tar_of({"var/lib/dpkg/status": STATUS, "etc/os-release": "->../usr/lib/os-release",
                   "usr/lib/os-release": 'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n',
                   "var/lib/dpkg/info/curl.list": "/.\n/bin/curl\n"})  # fmt: skip
    programs = tar_of(
        {"usr/bin/curl": image_contents.ELF + b"1", "usr/local/bin/tool": image_contents.ELF + b"2",
         "usr/local/bin/go-tool": GO, "usr/lib/x.so.1": image_contents.ELF + b"3", "usr/bin/script": "#!/bin/sh\n"},
        mode=0o755,
    )  # fmt: skip
    python = tar_of({f"{SITE}/Some_Package-1.0.dist-info/METADATA": METADATA,
                     f"{SITE}/Some_Package-1.0.dist-info/licenses/LICENSE": "the text",
                     "usr/lib/python3/dist-packages/debians-1.egg-info/PKG-INFO": "Name: debians\n"})  # fmt: skip
    archive = saved(
        tmp_path / "images.tar",
        {"base.tar": base, "programs.tar": gzip.compress(programs), "python.tar": python},
        {"x/b:2": ["base.tar", "again.tar"], "x/a:1": ["base.tar", "programs.tar"]},
        **{"again.tar": "->python.tar"},
    )
    first, second = image_contents.read_images(archive)
    assert (first.reference, second.reference) == ("x/a:1", "x/b:2")
    assert (first.distribution, first.release, first.version) == ("debian", "trixie", "13")
    assert names(first, "deb") == names(second, "deb") == [("curl", "8.1-2")]
    assert names(first, "golang") == [("example.com/a", ""), ("d.org/c", "v1.3.0"), ("stdlib", "1.24.4")]
    [program] = [each for each in first.components if each.kind == "file"]
    assert program.path == "/usr/local/bin/tool"
    assert program.sha256 == hashlib.sha256(image_contents.ELF + b"2").hexdigest()
    [package] = [each for each in second.components if each.kind == "pypi"]
    assert (package.name, package.version, package.licence) == ("Some_Package", "1.0", "MIT")
    assert second.licences == {"Some_Package-1.0/licenses/LICENSE": b"the text"}
    assert second.digest == f"sha256:{hashlib.sha256(json.dumps({'of': 'x/b:2'}).encode()).hexdigest()}"


@pytest.mark.parametrize(
    "removal",
    [f"{SITE}/.wh.Some_Package-1.0.dist-info", f"{SITE}/.wh..wh..opq", "opt/.wh.venv"],
    ids=["directory", "emptied", "above"],
)
def test_what_a_later_layer_removes_is_not_there(tmp_path: Path, removal: str) -> None:
    """Marks of removal count for the layers below, and not for the same one."""
    kept = f"{SITE}/kept-2.dist-info/METADATA"
    lower = tar_of({f"{SITE}/Some_Package-1.0.dist-info/METADATA": METADATA})
    upper = tar_of({removal: "", kept: "Name: kept\nVersion: 2\n"})
    archive = saved(tmp_path / "images.tar", {"1": lower, "2": upper}, {"x/a:1": ["1", "2"]})
    [image] = image_contents.read_images(archive)
    assert names(image, "pypi") == [("kept", "2")]


def test_a_python_package_that_brought_a_program(tmp_path: Path) -> None:
    """It is named in the package's record, by a path from there."""
    files = {f"{SITE}/uv-1.dist-info/METADATA": "Name: uv\nVersion: 1\n",
             f"{SITE}/uv-1.dist-info/RECORD": "../../../bin/uv,sha256=x,4\nuv/__init__.py,,\n",
             "opt/venv/bin/uv": image_contents.ELF + b"1"}  # fmt: skip
    archive = saved(tmp_path / "images.tar", {"1": tar_of(files, 0o755)}, {"x/a:1": ["1"]})
    [image] = image_contents.read_images(archive)
    assert [each.name for each in image.components] == ["uv"]


def test_java_archives(tmp_path: Path) -> None:
    """By their Maven coordinates, else by manifest and name; what is none is passed over."""

    def jar(**files: str) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as opened:
            for name, text in files.items():
                opened.writestr(name.replace("__", "/"), text)
        return buffer.getvalue()

    files = {"opt/a.jar": jar(**{"META-INF__maven__g__a__pom.properties": "#x\ngroupId=g\nartifactId=a\nversion=3\n"}),
             "opt/b.jar": jar(**{"META-INF__MANIFEST.MF": "Implementation-Version: 4\r\n"}),
             "opt/c.jar": b"no"}  # fmt: skip
    archive = saved(tmp_path / "images.tar", {"1": tar_of(files)}, {"x/a:1": ["1"]})
    [image] = image_contents.read_images(archive)
    assert names(image, "maven") == [("g/a", "3"), ("b/b", "4")]


@pytest.mark.parametrize(
    "data", [b"", image_contents.GO_MAGIC, GO[:60], b"\xff" * 100], ids=["none", "mark", "cut", "other"]
)
def test_what_is_no_go_program(data: bytes) -> None:
    """No modules, and no error."""
    assert image_contents.go_modules(data) == []


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License: MIT", "MIT"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: BSD License", "BSD License"),
        ("License: a text\n of several lines", ""),
        ("License-Expression: MIT OR Apache-2.0\nLicense: other", "MIT OR Apache-2.0"),
    ],
)
def test_the_licence_that_a_python_package_states(metadata: str, licence: str) -> None:
    """An expression first, then its words, then its classifiers."""
    assert image_contents.stated_licence(image_contents.headers(metadata)) == licence


@pytest.mark.parametrize("change", ["cut", "none", "incomplete"])
def test_a_damaged_archive(tmp_path: Path, change: str) -> None:
    """It is named, with the reason."""
    archive = saved(tmp_path / "images.tar", {"1": tar_of({"a": "b" * 20000})}, {"x/a:1": ["1"]})
    if change == "cut":
        archive.write_bytes(archive.read_bytes()[:9000])
    elif change == "none":
        archive.write_bytes(b"")
    else:
        archive = saved(tmp_path / "images.tar", {}, {"x/a:1": ["1"]})
    with pytest.raises(image_contents.ContentsError, match=r"images\.tar cannot be read as an archive of images"):
        image_contents.read_images(archive)

"""Bills of materials are valid CycloneDX, and no licence is lost."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import bill_of_materials
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from image_contents import Component
from test_debian_packages import COPYRIGHT, package

DEB = Component("deb", "libone", "1:2-3+b1", architecture="amd64")
PARTS = [
    DEB,
    Component("pypi", "Some_Package", "1.0", "MIT OR Apache-2.0", path="/opt/a"),
    Component("pypi", "Some_Package", "1.0", "MIT OR Apache-2.0", path="/opt/b"),
    Component("pypi", "other", "2", "Own words, about it"),
    Component("golang", "github.com/minio/minio", ""),
    Component("golang", "stdlib", "1.24.4"),
    Component("maven", "g/a", "3"),
    Component("file", "uv", "", path="/usr/local/bin/uv", sha256="0" * 64),
]


def written(**more: Any) -> dict[str, Any]:
    """A bill, which is valid."""
    text = bill_of_materials.bill("quantops/redis", "abc", PARTS, digest=f"sha256:{'a' * 64}", **more)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    return json.loads(text)


def test_components() -> None:
    """Each once, with the address that vulnerabilities are looked up by."""
    found = written(distribution="debian", release_version="13")
    assert found["metadata"]["component"] | {"bom-ref": ""} == {
        "bom-ref": "", "type": "container", "name": "quantops/redis", "version": "abc",
        "hashes": [{"alg": "SHA-256", "content": "a" * 64}],
    }  # fmt: skip
    assert {each.get("purl") for each in found["components"]} == {
        "pkg:deb/debian/libone@1:2-3%2Bb1?arch=amd64&distro=debian-13", "pkg:pypi/some-package@1.0", "pkg:pypi/other@2",
        "pkg:golang/github.com/minio/minio", "pkg:golang/stdlib@v1.24.4", "pkg:maven/g/a@3", None,
    }  # fmt: skip
    assert len(found["components"]) == 7
    [python] = [each for each in found["components"] if each["name"] == "Some_Package"]
    assert [each["value"] for each in python["properties"]] == ["/opt/a", "/opt/b"]
    [[dependency]] = [[each for each in found["dependencies"] if "dependsOn" in each]]
    assert len(dependency["dependsOn"]) == 7


def test_licences_in_a_bill() -> None:
    """An expression as one, a package's own words by name, and all that a copyright file names."""
    found = {
        each["name"]: each.get("licenses")
        for each in written(named={("libone", "1:2-3+b1"): ["Expat", "GPL-2+"]})["components"]
    }
    assert found["Some_Package"] == [{"expression": "MIT OR Apache-2.0"}]
    assert found["other"] == [{"license": {"name": "Own words, about it"}}]
    assert found["libone"] == [{"license": {"name": "Expat"}}, {"license": {"name": "GPL-2+"}}]
    assert found["uv"] is None


def rows(directory: Path) -> dict[str, dict[str, str]]:
    """The table, by the name of the component."""
    with (directory / "components.csv").open(encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_the_table_of_licences(tmp_path: Path) -> None:
    """Where each component is, its licence, and where its text is."""
    licences = bill_of_materials.Licences(tmp_path / "licences")
    for name, version in (("one", "1:2-3"), ("other", "1:2-3"), ("newer", "1:2-2"), ("lost", "1")):
        licences.add(Component("deb", name, version), "x/a:1")
        licences.add(Component("deb", name, version), "x/b:1")
    licences.add_texts(PARTS[1], "x/a:1", {"licenses/deep/LICENSE": b"the text", "NOTICE": b"a notice"})
    for name, more in (
        ("one", {"copyright_text": COPYRIGHT}),
        ("other", {"link": "one"}),
        ("newer", {"copyright_text": "Free."}),
    ):
        licences.add_copyright(package(tmp_path, name, **more))
    licences.follow()
    licences.write()
    found = rows(tmp_path / "licences")
    assert found["one"]["licence"] == found["other"]["licence"] == "Expat; GPL-2+"
    assert found["one"]["in"] == "x/a:1 x/b:1"
    # Of a version that there is no more, the one that came after it.
    assert found["newer"]["text"] == "debian/newer_1%3a2-3" and found["newer"]["licence"] == ""
    assert found["lost"]["text"] == ""
    for name in ("one", "other", "newer"):
        assert (tmp_path / "licences" / found[name]["text"]).is_file()
    texts = {path.name: path.read_text() for path in (tmp_path / "licences" / found["Some_Package"]["text"]).iterdir()}
    assert texts == {"deep_LICENSE": "the text", "NOTICE": "a notice"}


@pytest.mark.parametrize("name", ["one-1-py3-none-any.whl"])
def test_a_wheel(tmp_path: Path, name: str) -> None:
    """Its metadata, its licences and its checksum."""
    path = tmp_path / name
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("one-1.dist-info/METADATA", "Name: one\nVersion: 1\nLicense: MIT\n")
        wheel.writestr("one-1.dist-info/licenses/COPYING", "the text")
        wheel.writestr("one/LICENSE.py", "code")
    component, texts = bill_of_materials.wheel_contents(path)
    assert (component.name, component.version, component.licence, len(component.sha256)) == ("one", "1", "MIT", 64)
    assert texts == {"licenses/COPYING": b"the text"}

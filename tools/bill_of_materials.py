"""Writes CycloneDX bills of materials, and the licences of everything that is in a bundle."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import debian_packages
import image_contents
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component as BomComponent
from cyclonedx.model.component import ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License
from cyclonedx.output.json import JsonV1Dot6
from image_contents import Component
from packageurl import PackageURL

#: Namespace of this collection's own properties.
OWN = "quantops:ibkr_stack"


def package_url(component: Component, distribution: str = "", version: str = "") -> PackageURL | None:
    """Write a component as a package URL.

    Args:
        component: The component.
        distribution: ``ID`` of os-release, where Debian packages are.
        version: ``VERSION_ID`` of os-release.

    Returns:
        The URL; nothing for a file. Source of the forms: purl-spec, PURL-TYPES.
    """
    name, kind, release = component.name, component.kind, component.version or None
    if kind == "deb":
        qualifiers = {"arch": component.architecture, "distro": f"{distribution}-{version}".strip("-")}
        return PackageURL("deb", distribution or "debian", name, release, {k: v for k, v in qualifiers.items() if v})
    if kind == "pypi":
        return PackageURL("pypi", None, name.lower().replace("_", "-"), release)
    if kind in ("golang", "maven"):
        namespace, _separator, last = name.rpartition("/")
        return PackageURL(kind, namespace or None, last, f"v{release}" if name == "stdlib" and release else release)
    return None


def licences_of(component: Component, named: Iterable[str]) -> list[License]:
    """Write the licences of a component as CycloneDX has them.

    Args:
        component: The component.
        named: Short names from its copyright file, of a Debian package.

    Returns:
        Licences: by their SPDX id where the words are one, an expression alone, or by name.
    """
    names = list(named)
    if names:
        # Debian's names are not SPDX's, and say which parts there are, not what is to be chosen from.
        return [DisjunctiveLicense(name=name) for name in names]
    return [LicenseFactory().make_from_string(component.licence)] if component.licence else []


def bill(
    name: str,
    version: str,
    components: Iterable[Component],
    *,
    kind: ComponentType = ComponentType.CONTAINER,
    digest: str = "",
    distribution: str = "",
    release_version: str = "",
    named: Mapping[tuple[str, str], Iterable[str]] | None = None,
) -> str:
    """Write a bill of materials.

    Args:
        name: What it is of.
        version: Version of that.
        components: What is in it.
        kind: What it is.
        digest: Of an image.
        distribution: ``ID`` of os-release of an image or a host.
        release_version: ``VERSION_ID`` of os-release.
        named: Name and version of Debian packages to the short names of their licences.

    Returns:
        CycloneDX 1.6 as JSON.
    """
    document = Bom()
    root = BomComponent(name=name, version=version, type=kind, bom_ref="subject")
    if digest:
        root.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:")))
    document.metadata.component = root
    # What is at several places is one component, and says where.
    places: dict[tuple[str, ...], list[Component]] = {}
    for each in components:
        places.setdefault((each.kind, each.name, each.version, each.architecture, each.sha256), []).append(each)
    written = []
    for number, found in enumerate(places.values()):
        first = found[0]
        url = package_url(first, distribution, release_version)
        component = BomComponent(
            name=first.name,
            version=first.version or None,
            type=ComponentType.FILE if first.kind == "file" else ComponentType.LIBRARY,
            purl=url,
            bom_ref=f"{number}-{first.kind}-{first.name}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=first.sha256)] if first.sha256 else None,
            licenses=licences_of(first, (named or {}).get((first.name, first.version), ())),
            properties=[Property(name=f"{OWN}:path", value=each.path) for each in found if each.path],
        )
        document.components.add(component)
        written.append(component)
    document.register_dependency(root, written)
    return JsonV1Dot6(document).output_as_string(indent=1)


def wheel_contents(path: Path) -> tuple[Component, dict[str, bytes]]:
    """Read what a wheel is.

    Args:
        path: The wheel.

    Returns:
        Its component, and path below its directory of metadata to the text of each licence.
    """
    content = path.read_bytes()
    texts, metadata = {}, ""
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        for name in wheel.namelist():
            directory, _separator, below = name.partition("/")
            if below == "METADATA" and directory.endswith(".dist-info"):
                metadata = wheel.read(name).decode(errors="replace")
            elif image_contents.licence_text(name) and not name.endswith("/"):
                texts[below] = wheel.read(name)
    said = image_contents.headers(metadata)
    licence = image_contents.stated_licence(said)
    digest = hashlib.sha256(content).hexdigest()
    return Component("pypi", said["Name"][0], said["Version"][0], licence, sha256=digest), texts


@dataclass
class Licences:
    """The licences of all components, as a table and as texts."""

    directory: Path
    rows: dict[tuple[str, str, str], dict[str, set[str] | str]] = field(default_factory=dict)
    #: Name and version of a Debian package to the short names in its copyright file.
    named: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, component: Component, where: str) -> dict[str, set[str] | str]:
        """Add a component.

        Args:
            component: The component.
            where: What it is in.

        Returns:
            Its row.
        """
        key = (component.kind, component.name, component.version)
        row = self.rows.setdefault(key, {"licence": component.licence, "text": "", "in": set()})
        assert isinstance(row["in"], set)
        row["in"].add(where)
        return row

    def add_texts(self, component: Component, where: str, texts: Mapping[str, bytes]) -> None:
        """Add a Python package with the texts of its licences.

        Args:
            component: The package.
            where: What it is in.
            texts: Name to text.
        """
        row = self.add(component, where)
        name = f"{component.name.lower().replace('_', '-').replace('.', '-')}-{component.version}"
        for below, text in texts.items():
            # Names of packages may not lead elsewhere.
            file = self.directory / "python" / name / below.removeprefix("licenses/").replace("/", "_")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text)
            row["text"] = f"python/{name}"

    def add_copyright(self, file: Path) -> None:
        """Keep the copyright file of a Debian package, for all components of its name.

        Args:
            file: The package.
        """
        package = debian_packages.described(file)
        text = debian_packages.copyright_text(file, package.name)
        if not text:
            return
        path = self.directory / "debian" / f"{package.name}_{package.version.replace(':', '%3a')}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        names = debian_packages.short_licences(text)
        for (kind, name, version), row in self.rows.items():
            exact = version == package.version
            if kind == "deb" and name == package.name and (exact or not row["text"]):
                row["text"] = f"debian/{path.name}"
                row["licence"] = " ".join(f"{each};" for each in names).rstrip(";")
                self.named[name, version] = names

    def follow(self) -> None:
        """Give packages whose directory of documents is another package's that one's licences."""
        texts = {row["text"]: key for key, row in self.rows.items() if row["text"]}
        for key, row in self.rows.items():
            file = self.directory / str(row["text"])
            if key[0] != "deb" or not row["text"] or self.named.get(key[1:]):
                continue
            said = file.read_text(encoding="utf-8", errors="replace")
            if said.startswith("See ") and said.count("\n") == 1:
                other = Path(said[4:].strip().rstrip(".")).name
                for text, (_kind, name, version) in texts.items():
                    if name == other and (name, version) in self.named:
                        row["text"], row["licence"] = text, self.rows["deb", name, version]["licence"]
                        self.named[key[1:]] = self.named[name, version]
                        break

    def write(self) -> None:
        """Write the table."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "components.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["kind", "name", "version", "licence", "text", "in"])
            for (kind, name, version), row in sorted(self.rows.items()):
                table.writerow([kind, name, version, row["licence"], row["text"], " ".join(sorted(row["in"]))])

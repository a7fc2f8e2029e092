"""The check for vulnerabilities: its database, what it reads from govulncheck, and the comparison with the list."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[3]
sys.path.insert(0, str(REPOSITORY / "tools"))

import vulnerabilities  # noqa: E402


def report(name: str, module: str, **more: Any) -> dict[str, Any]:
    """A report of the database."""
    return {
        "id": name, "modified": "2026-11-05T00:00:00Z", "summary": f"About {name}",
        "affected": [{"package": {"name": module, "ecosystem": "Go"}, **more}],
    }  # fmt: skip


def test_index(tmp_path: Path) -> None:
    """Every report under each of its modules, once, and with the version that ends it where one does."""
    reports = tmp_path / "osv"
    reports.mkdir()
    twice = report("GO-2", "example.org/b")
    twice["affected"] *= 2
    ended = {"ranges": [{"events": [{"introduced": "0"}, {"fixed": "1.2.0"}]}]}
    open_again = {"ranges": [*ended["ranges"], {"events": [{"introduced": "2.0.0"}]}]}
    more = (report("GO-3", "example.org/c", **ended), report("GO-4", "example.org/c", **open_again))
    for each in (report("GO-1", "example.org/a"), twice, *more):
        (reports / f"{each['id']}.json").write_text(json.dumps(each))
    assert vulnerabilities.index(reports, tmp_path / "db") == 4
    modules = json.loads((tmp_path / "db" / "index" / "modules.json").read_text())
    assert [(each["path"], [vuln["id"] for vuln in each["vulns"]]) for each in modules] == [
        ("example.org/a", ["GO-1"]),
        ("example.org/b", ["GO-2"]),
        ("example.org/c", ["GO-3", "GO-4"]),
    ]
    found = {vuln["id"]: vuln.get("fixed") for each in modules for vuln in each["vulns"]}
    assert found == {"GO-1": None, "GO-2": None, "GO-3": "1.2.0", "GO-4": None}
    assert json.loads((tmp_path / "db" / "ID" / "GO-2.json").read_text()) == twice
    assert json.loads((tmp_path / "db" / "index" / "db.json").read_text()) == {"modified": "2026-11-05T00:00:00Z"}


def test_findings() -> None:
    """Only what was found, with the module, not every report that was looked at."""
    said = [
        {"config": {"scanner_name": "govulncheck"}},
        {"osv": report("GO-1", "example.org/a")},
        {"osv": report("GO-2", "example.org/b")},
        {
            "finding": {
                "osv": "GO-2",
                "fixed_version": "v1.2.0",
                "trace": [{"module": "example.org/b", "version": "v1"}],
            }
        },
        {"finding": {"osv": "GO-3", "trace": [{"module": "stdlib", "version": "v1.26"}]}},
    ]
    text = "\n".join(json.dumps(each, indent=2) for each in said) + "\n"
    assert vulnerabilities.findings(text) == {
        "GO-2": "example.org/b v1, fixed in v1.2.0: About GO-2",
        "GO-3": "stdlib v1.26, fixed in no version",
    }
    assert vulnerabilities.reports_of(text) == {"GO-1": "About GO-1", "GO-2": "About GO-2"}


@pytest.mark.parametrize(
    ("found", "accepted", "said"),
    [
        ({"minio": {"GO-1": "x"}}, {"minio": {"GO-1": "patched"}}, []),
        ({"minio": {"GO-1": "x"}}, {}, ["minio: GO-1 is new: x"]),
        ({"minio": {"GO-1": "x"}}, {"mc": {"GO-1": "y"}}, ["mc: GO-1 is listed, and no longer found",
                                                                "minio: GO-1 is new: x"]),
        ({"minio": {}}, {"minio": {"GO-1": "patched"}}, ["minio: GO-1 is listed, and no longer found"]),
        ({"minio": {"GO-1": "x"}}, {"minio": {"GO-1": ""}}, ["minio: GO-1 is listed without a reason"]),
        ({"minio": {}}, {"minio": None}, []),
    ],
)  # fmt: skip
def test_faults(found: dict[str, Any], accepted: dict[str, Any], said: list[str]) -> None:
    """What is new, what is listed for nothing, and what has no reason; an entry counts for its own program."""
    assert vulnerabilities.faults(found, accepted) == said


def test_pinned() -> None:
    """Versions of one module, without the sums of its go.mod."""
    sums = "a.org/x v1 h1:1=\na.org/x v1/go.mod h1:2=\na.org/xy v3 h1:3=\n"
    assert vulnerabilities.pinned("a.org/x", sums) == ["v1"]


def test_the_list_has_a_reason_for_each() -> None:
    """And names only programs that are looked at."""
    accepted = yaml.safe_load(vulnerabilities.ACCEPTED.read_text())
    assert set(accepted) <= {program for programs in vulnerabilities.PROGRAMS.values() for program in programs}
    assert all(len(reason) > 20 for listed in accepted.values() for reason in listed.values())


@pytest.mark.parametrize("role", vulnerabilities.PROGRAMS)
def test_every_build_is_pinned(role: str) -> None:
    """The versions in the build's script are those whose checksums are known, with the same Go in each."""
    sums = (vulnerabilities.sources(role) / "go.sum").read_text()
    script = (vulnerabilities.sources(role).parent / "build").read_text()
    for module in set(vulnerabilities.PROGRAMS[role].values()) - {None}:
        (version,) = vulnerabilities.pinned(module, sums)
        name = module.rsplit("/", 1)[1].removeprefix("Victoria").upper()
        assert f"{name}_VERSION={version}\n" in script
    toolchains = vulnerabilities.pinned("golang.org/toolchain", sums)
    (used,) = [line.removeprefix("TOOLCHAIN=") for line in script.splitlines() if line.startswith("TOOLCHAIN=")]
    assert sorted(toolchains) == [f"v0.0.1-{used}.linux-amd64", f"v0.0.1-{used}.linux-arm64"]
    assert toolchains == vulnerabilities.pinned(
        "golang.org/toolchain", (vulnerabilities.sources("minio") / "go.sum").read_text()
    )


def test_every_program_is_looked_at() -> None:
    """Of each image that is built with Go."""
    built = [path.parts[-5] for path in vulnerabilities.REPOSITORY.glob("roles/*/files/image/sources/go.sum")]
    assert sorted(built) == sorted(vulnerabilities.PROGRAMS)
    for role, programs in vulnerabilities.PROGRAMS.items():
        script = (vulnerabilities.sources(role).parent / "build").read_text()
        # Those with a line of their own, and those that a function of the script is called for.
        names = [*re.findall(r"out/([a-z-]+)\"? ", script), *re.findall(r"^build ([a-z]+) ", script, re.MULTILINE)]
        names += [
            word for line in re.findall(r"^build Victoria\S+ \S+ (.+)$", script, re.MULTILINE) for word in line.split()
        ]
        assert sorted(names) == sorted(programs)


def test_without_go(tmp_path: Path) -> None:
    """It ends with 1 and says what to install."""
    images = tmp_path / "images"
    images.write_text("{}")
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tools" / "vulnerabilities.py"), str(images)],
        env=os.environ | {"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "apt-get install golang-go" in done.stderr

"""Looks for known vulnerabilities in the Go programs that are built here, and compares them with a list of what stays.

Usage: ``vulnerabilities.py FILE``, with a file of JSON that names the image of each role in ``PROGRAMS``. It needs
Docker and any Go, which fetches the one that the images are built with.
Each finding that ``accepted_vulnerabilities.yml`` does not list is an error, and so is each entry of that list that is
no longer found.

It compares versions of modules, as the programs themselves tell them, and so counts what is not called too: stripped
programs have no table of symbols to narrow it down. The database is that of Go's security team, from the module
golang.org/x/vulndb.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
ACCEPTED = Path(__file__).with_name("accepted_vulnerabilities.yml")
CACHE = REPOSITORY / ".cache" / "vulnerabilities"
METRICS, LOGS = (f"github.com/VictoriaMetrics/Victoria{name}" for name in ("Metrics", "Logs"))
#: Role to the programs in its image, each with the module that it is built from: built from a directory, a program does
#: not know its own module's version. None for those whose source is in this repository.
PROGRAMS: dict[str, dict[str, str | None]] = {
    "minio": {"minio": "github.com/minio/minio", "mc": "github.com/minio/mc"},
    "edge": {"edge-gate": None},
    "monitoring": {
        **dict.fromkeys(("victoria-metrics", "vmagent", "vmalert", "vmauth"), METRICS),
        **dict.fromkeys(("victoria-logs", "vlagent"), LOGS),
        "container-agent": None,
    },
}
GOVULNCHECK = "golang.org/x/vuln/cmd/govulncheck@v1.9.0"
DATABASE = "golang.org/x/vulndb@latest"

#: Id of a vulnerability to what is known of it.
Found = dict[str, str]


class CheckError(Exception):
    """The check cannot be made; the text says why."""


def sources(role: str) -> Path:
    """Find versions and checksums of what the build of an image downloads.

    Args:
        role: Whose image.

    Returns:
        The directory of ``go.sum``.
    """
    return REPOSITORY / "roles" / role / "files" / "image" / "sources"


def run(*words: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Run a program to its end.

    Args:
        words: Program and arguments.
        cwd: Directory to run it in.
        environment: Variables beside those of this process.

    Returns:
        What it prints.

    Raises:
        CheckError: If it cannot be run, or fails.
    """
    try:
        done = subprocess.run(
            [str(word) for word in words], cwd=cwd, env=os.environ | (environment or {}),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError as error:
        raise CheckError(f"{words[0]} cannot be run: {error}") from error
    if done.returncode:
        raise CheckError(f"{' '.join(map(str, words))} failed:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def pinned(module: str, sums: str) -> list[str]:
    """Read versions of a module from a ``go.sum``.

    Args:
        module: Path of the module.
        sums: Text of the file.

    Returns:
        Versions, in the file's order.
    """
    lines = [line.split() for line in sums.splitlines()]
    return [words[1] for words in lines if words and words[0] == module and not words[1].endswith("/go.mod")]


def go_of_the_images() -> Path:
    """Fetch the Go that the images are built with.

    Returns:
        Path of its ``go``.

    Raises:
        CheckError: If there is no Go to fetch it with, or none for this machine.
    """
    if not (found := shutil.which("go")):
        raise CheckError("There is no Go on this machine to fetch another with: apt-get install golang-go")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    # All of them with the same one.
    directory_of_sums = sources("minio")
    versions = pinned("golang.org/toolchain", (directory_of_sums / "go.sum").read_text())
    for version in versions:
        if version.endswith(f".linux-{machine}"):
            module = f"golang.org/toolchain@{version}"
            answer = run(
                found, "mod", "download", "-json", module, cwd=directory_of_sums, environment={"GOTOOLCHAIN": "local"}
            )
            copy = CACHE / version
            if not copy.exists():
                # A module has no executable files, and the module cache is for reading only.
                with tempfile.TemporaryDirectory(dir=CACHE) as directory:
                    shutil.copytree(json.loads(answer)["Dir"], Path(directory, "go"), copy_function=shutil.copyfile)
                    run("chmod", "-R", "u+w,a+x", Path(directory, "go"))
                    Path(directory, "go").rename(copy)
            return copy / "bin" / "go"
    raise CheckError(f"{directory_of_sums / 'go.sum'} has no Go for linux-{machine}")


def index(reports: Path, target: Path) -> int:
    """Write a database as ``govulncheck -db`` reads it.

    Args:
        reports: Directory of reports in OSV's form, one file each.
        target: Directory to write to.

    Returns:
        Number of reports.
    """
    modules: dict[str, dict[str, Any]] = {}
    last = ""
    files = sorted(reports.glob("*.json"))
    for directory in ("ID", "index"):
        (target / directory).mkdir(parents=True, exist_ok=True)
    for file in files:
        report = json.loads(file.read_text())
        last = max(last, report["modified"])
        (target / "ID" / file.name).write_text(json.dumps(report))
        for affected in report.get("affected", []):
            entry = {"id": report["id"], "modified": report["modified"]}
            # A query of a module's version looks at nothing else; left out where a range is open.
            ends = [each["events"][-1].get("fixed") for each in affected.get("ranges", [])]
            if ends and all(ends):
                entry["fixed"] = ends[-1]
            modules.setdefault(affected["package"]["name"], {})[report["id"]] = entry
    listed = [{"path": path, "vulns": list(vulns.values())} for path, vulns in sorted(modules.items())]
    (target / "index" / "modules.json").write_text(json.dumps(listed))
    (target / "index" / "db.json").write_text(json.dumps({"modified": last}))
    return len(files)


def messages(text: str) -> Iterator[dict[str, Any]]:
    """Read what ``govulncheck -format json`` prints.

    Args:
        text: JSON objects, one after the other.

    Yields:
        Each of them.
    """
    decoder, at = json.JSONDecoder(), 0
    while (at := len(text) - len(text[at:].lstrip())) < len(text):
        message, at = decoder.raw_decode(text, at)
        yield message


def findings(text: str) -> Found:
    """Read what was found in a program's modules.

    Args:
        text: What ``govulncheck -mode binary -format json`` prints.

    Returns:
        The findings.
    """
    found: Found = {}
    summaries: Found = {}
    for message in messages(text):
        if osv := message.get("osv"):
            summaries[osv["id"]] = osv.get("summary", "")
        if finding := message.get("finding"):
            where = finding["trace"][0]
            fixed = finding.get("fixed_version") or "no version"
            found[finding["osv"]] = f"{where['module']} {where.get('version', '')}, fixed in {fixed}"
    return {name: f"{text}: {summaries.get(name, '')}".rstrip(": ") for name, text in found.items()}


def reports_of(text: str) -> Found:
    """Read what is known of a module's version.

    Args:
        text: What ``govulncheck -mode query -format json`` prints.

    Returns:
        The reports.
    """
    return {osv["id"]: osv.get("summary", "") for message in messages(text) if (osv := message.get("osv"))}


def check(images: dict[str, str]) -> dict[str, Found]:
    """Look for known vulnerabilities in the programs of images.

    Args:
        images: Role to the name of its image.

    Returns:
        What was found in each program.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    go = go_of_the_images()
    environment = {"GOTOOLCHAIN": "local", "GOROOT": str(go.parents[1]), "GOBIN": str(CACHE / "bin"), "GOFLAGS": ""}
    run(go, "install", GOVULNCHECK, cwd=CACHE, environment=environment)
    downloaded = json.loads(run(go, "mod", "download", "-json", DATABASE, cwd=CACHE, environment=environment))
    database = CACHE / "db" / downloaded["Version"]
    if not (database / "index" / "db.json").exists():
        index(Path(downloaded["Dir"], "data", "osv"), database)
    count = sum(1 for _ in (database / "ID").iterdir())
    print(f"Comparing with {count} reports of {downloaded['Version']}")
    govulncheck = [CACHE / "bin" / "govulncheck", "-db", database.as_uri(), "-format", "json"]
    found: dict[str, Found] = {}
    for role, programs in PROGRAMS.items():
        sums = (sources(role) / "go.sum").read_text()
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            container = run("docker", "create", images[role]).strip()
            try:
                for program in programs:
                    run("docker", "cp", f"{container}:/usr/local/bin/{program}", f"{directory}/{program}")
            finally:
                run("docker", "rm", container)
            for program, module in programs.items():
                words = [*govulncheck, "-mode", "binary", "-scan", "module", Path(directory, program)]
                found[program] = findings(run(*words, environment=environment))
                for version in pinned(module, sums) if module else []:
                    words = [*govulncheck, "-mode", "query", f"{module}@{version}"]
                    found[program] |= reports_of(run(*words, environment=environment))
    return found


def faults(found: dict[str, Found], accepted: dict[str, dict[str, str]]) -> list[str]:
    """Compare what was found with what is accepted.

    Args:
        found: What was found in each program.
        accepted: For each program the id of what stays, and why.

    Returns:
        A sentence for each difference, and for each entry without a reason.
    """
    said = []
    for program in sorted({*found, *accepted}):
        here, listed = found.get(program, {}), accepted.get(program) or {}
        said += [f"{program}: {name} is new: {here[name]}" for name in sorted(here.keys() - listed.keys())]
        said += [f"{program}: {name} is listed, and no longer found" for name in sorted(listed.keys() - here.keys())]
        said += [f"{program}: {name} is listed without a reason" for name in sorted(listed) if not listed[name]]
    return said


def main() -> int:
    """Check the images that are named.

    Returns:
        1 if something differs from the list.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="JSON that names the image of each role")
    images = json.loads(parser.parse_args().file.read_text())
    try:
        found = check(images)
    except CheckError as error:
        print(error, file=sys.stderr)
        return 1
    said = faults(found, yaml.safe_load(ACCEPTED.read_text()))
    for sentence in said:
        print(sentence)
    if said:
        print(f"Update a module or write the reason into {ACCEPTED.relative_to(REPOSITORY)}.", file=sys.stderr)
        return 1
    for program, here in found.items():
        print(f"{program}: nothing new, {len(here)} accepted")
    return 0


if __name__ == "__main__":
    sys.exit(main())

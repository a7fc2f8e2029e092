# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is backed up on a host, and what is restored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleError, AnsibleFilterError
from ansible.parsing.vault import VaultLib, VaultSecret


def backup_places(services: Mapping[str, Mapping[str, Any]], here: Iterable[str]) -> dict[str, Any]:
    """Say what is backed up on a host, and where the backup finds it.

    Args:
        services: Service to its contract without templates.
        here: Services of this host.

    Returns:
        ``volumes``, name to the ``path`` in the backup's container and the ``kind``; ``postgres``, the ``user``,
        ``admin``, ``data`` and ``socket`` of PostgreSQL, or nothing; and ``mounts``, as a container declares them.
    """
    volumes: dict[str, dict[str, str]] = {}
    postgres: dict[str, str] = {}
    mounts = []
    for service in here:
        for name, entry in services[service]["data"].items():
            if entry["backup"] == "none":
                continue
            path = entry["path"] if entry["backup"] == "postgres" else f"/data/{name}"
            mounts.append({"name": name, "path": path, "read_only": True})
            if entry["backup"] == "postgres":
                postgres = {
                    "user": str(entry["user"]),
                    "admin": entry["admin"],
                    "data": f"{path}/{entry['version_file'].rpartition('/')[0]}",
                    "socket": path,
                }
            else:
                volumes[name] = {"path": path, "kind": entry["backup"]}
    return {"volumes": volumes, "postgres": postgres, "mounts": mounts}


def backup_left_out(services: Mapping[str, Mapping[str, Any]], elsewhere: Iterable[str]) -> list[dict[str, str]]:
    """List the volumes whose data no backup has, because other hosts have them.

    Args:
        services: Service to its contract without templates.
        elsewhere: Active services that the host of the backup does not run.

    Returns:
        ``volume``, ``service`` (its title) and ``host`` of each, by the volumes' names.
    """
    found = [
        {"volume": volume, "service": str(services[name]["title"]), "host": str(services[name]["owner"])}
        for name in elsewhere
        for volume, entry in services[name]["data"].items()
        if entry["backup"] != "none"
    ]
    return sorted(found, key=lambda each: each["volume"])


def drill_mounts(mounts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn the mounts of the backup's container into those of a drill, which are volumes of its own.

    Args:
        mounts: Of the backup's container.

    Returns:
        The same places, writable, with ``drill-`` before each name.
    """
    return [{**mount, "name": f"drill-{mount['name']}", "read_only": False} for mount in mounts]


def decrypted_secrets(text: str, password: str) -> dict[str, list[str]]:
    """Decrypt the copy of the secrets.

    Args:
        text: What Ansible Vault has made of them.
        password: Its password.

    Returns:
        Name to values, or nothing if it is another password or another text.
    """
    vault = VaultLib([("", VaultSecret(str(password).encode()))])
    try:
        return dict(json.loads(vault.decrypt(text)))
    except (AnsibleError, ValueError, TypeError):
        return {}


def moment_of(text: str) -> datetime | None:
    """Read a point in time.

    Args:
        text: In ISO 8601, with or without a zone; without one it is UTC.

    Returns:
        It in UTC, or nothing if the text is none.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def chosen_backup(manifests: Sequence[Mapping[str, Any]], wanted: str) -> dict[str, Any]:
    """Choose what is restored.

    Args:
        manifests: Manifests of the complete backups, the newest first.
        wanted: ``latest`` for the newest backup, the id of one, a point in time (ISO 8601, UTC without a zone), or
            ``end`` for everything that PostgreSQL has archived.

    Returns:
        ``manifest``, whose copy of the volumes is taken; ``moment``, to which the buckets are taken back, empty for
        ``end``; ``pgbackrest``, arguments of its ``restore``; and ``title``, what it is in words.

    Raises:
        AnsibleFilterError: If there is no such backup, with those that there are.
    """
    if not manifests:
        raise AnsibleFilterError("The repository has no complete backup. Nothing was changed.")
    newest, oldest = manifests[0], manifests[-1]
    if wanted == "end":
        _check_wal(newest, manifests)
        title = f"all that is archived, with the volumes of {newest['id']}"
        if "gap" in newest:
            title += f", but nothing from {newest['gap']['segment']} on, which is missing in the archive"
        return _chosen(newest, "", ["--type=default"], title)
    by_id = {manifest["id"]: manifest for manifest in manifests}
    manifest = newest if wanted == "latest" else by_id.get(wanted)
    if manifest:
        _check_wal(manifest, manifests)
        point = manifest.get("postgres")
        arguments = []
        if point:
            arguments = [f"--set={point['label']}", "--type=lsn", f"--target={point['lsn']}", "--target-action=promote"]
            arguments.append(f"--target-timeline={int(point['wal'][:8], 16)}")
        moment = point["time"] if point else manifest["started"]
        return _chosen(manifest, moment, arguments, f"the backup {manifest['id']}")
    moment = moment_of(wanted)
    if moment is None:
        known = ", ".join(list(by_id)[:10])
        raise AnsibleFilterError(
            f"restore_to is {wanted!r}, expected latest, end, a point in time such as '2026-11-28 02:30', or the id of"
            f" a backup: {known}. Nothing was changed."
        )
    if moment < datetime.fromisoformat(oldest["finished"]):
        raise AnsibleFilterError(
            f"restore_to is {moment:%Y-%m-%d %H:%M:%S} UTC, and the oldest backup is of"
            f" {datetime.fromisoformat(oldest['finished']):%Y-%m-%d %H:%M:%S} UTC. Nothing was changed."
        )
    # The first copy of the volumes that was begun later holds all that there was then: buckets keep old versions.
    later = [each for each in manifests if datetime.fromisoformat(each["started"]) >= moment]
    if not later:
        raise AnsibleFilterError(
            f"restore_to is {moment:%Y-%m-%d %H:%M:%S} UTC, and the newest backup, {newest['id']}, is older. Name an"
            " earlier time, latest, or end, which is all that PostgreSQL has archived. Nothing was changed."
        )
    # From the newest copy of PostgreSQL's files that is older, which needs the least WAL.
    base = next(each for each in manifests if datetime.fromisoformat(each["finished"]) <= moment)
    if _timeline(base) != _timeline(later[-1]):
        raise AnsibleFilterError(
            f"restore_to is {moment:%Y-%m-%d %H:%M:%S} UTC. Between the backups {base['id']} and {later[-1]['id']} the"
            " stack was restored or began anew, so that no backup has the objects of that time. Name one of these"
            " backups. Nothing was changed."
        )
    _check_wal(base, manifests, moment)
    target = f"{moment:%Y-%m-%d %H:%M:%S.%f}+00"
    arguments = ["--type=time", f"--target={target}", "--target-action=promote"]
    if base.get("postgres"):
        arguments.append(f"--set={base['postgres']['label']}")
        # Not the newest one, which a later restore has begun, and which may have left before that time.
        arguments.append(f"--target-timeline={_timeline(base)[1]}")
    return _chosen(later[-1], moment.isoformat(), arguments, f"the state of {moment:%Y-%m-%d %H:%M:%S} UTC")


def _timeline(manifest: Mapping[str, Any]) -> tuple[str, int]:
    """Say in which cluster and on which timeline a backup was made; zero without PostgreSQL."""
    point = manifest.get("postgres")
    return (point.get("system", ""), int(point["wal"][:8], 16)) if point else ("", 0)


def _check_wal(base: Mapping[str, Any], manifests: Sequence[Mapping[str, Any]], moment: datetime | None = None) -> None:
    """Refuse what needs WAL that the archive lacks.

    Args:
        base: The backup from which PostgreSQL replays.
        manifests: Of all, the newest first.
        moment: Up to when; without it, up to the backup's own restore point.

    Raises:
        AnsibleFilterError: With what can be restored instead.
    """
    if "missing" in base:
        whole = ", ".join([each["id"] for each in manifests if "missing" not in each][:5])
        raise AnsibleFilterError(
            f"PostgreSQL's archive lacks {base['missing']}, without which the backup {base['id']} cannot be restored."
            f" {f'Others can: {whole}' if whole else 'No other one can either'}. Nothing was changed."
        )
    gap = base.get("gap")
    if not gap or moment is None:
        return
    until = moment_of(gap["until"]) if gap["until"] else None
    if until and moment <= until:
        return
    newest = f"{until:%Y-%m-%d %H:%M:%S} UTC" if until else f"the backup {base['id']}"
    later = manifests[manifests.index(base) - 1]["id"] if manifests.index(base) else ""
    raise AnsibleFilterError(
        f"restore_to is {moment:%Y-%m-%d %H:%M:%S} UTC, and PostgreSQL's archive lacks {gap['segment']}, which comes"
        f" before that. The newest state before it that can be restored is {newest}"
        f"{f', and the first one after it the backup {later}' if later else ''}. Nothing was changed."
    )


def _chosen(manifest: Mapping[str, Any], moment: str, arguments: list[str], title: str) -> dict[str, Any]:
    return {"manifest": dict(manifest), "moment": moment, "pgbackrest": arguments, "title": title}


def moment_seconds(moment: str) -> int:
    """Count the seconds of a moment.

    Args:
        moment: In ISO 8601.

    Returns:
        Whole seconds since 1970.

    Raises:
        AnsibleFilterError: If it is no time.
    """
    then = moment_of(moment)
    if then is None:
        raise AnsibleFilterError(f"{moment!r} is no time.")
    return int(then.timestamp())


def later_versions(lines: Iterable[str], moment: str) -> list[list[str]]:
    """Choose the versions of objects that are younger than a moment.

    Args:
        lines: What MinIO's client has listed, a line of JSON each.
        moment: In ISO 8601.

    Returns:
        Id and key of each, the key with its alias and bucket.

    Raises:
        AnsibleFilterError: If the moment is no time, or a line cannot be read.
    """
    then = moment_of(moment)
    found = []
    try:
        versions = [json.loads(line) for line in lines if line.strip()]
        for version in versions:
            made = moment_of(version["lastModified"])
            if then is None or made is None:
                raise ValueError("a time cannot be read")
            if made > then:
                found.append([version["versionId"], version["key"]])
    except (ValueError, KeyError, TypeError) as error:
        raise AnsibleFilterError(f"The versions of objects since {moment!r} cannot be read: {error}") from None
    return found


PART = re.compile(r"(database|bucket|experiment):(.+)", re.DOTALL)


def restored_part(wanted: str, services: Mapping[str, Mapping[str, Any]], here: Iterable[str]) -> dict[str, Any]:
    """Read which part is restored.

    Args:
        wanted: Such as ``database:mlflow``, ``bucket:mlflow`` or ``experiment:daily strategy``.
        services: Service to its contract without templates.
        here: Services of this host.

    Returns:
        ``kind`` and ``name``; of a database and a bucket the ``services`` that use it, and those of their
        ``containers`` that are no jobs; and ``problems``, sentences.
    """
    here = list(here)
    known = {
        kind: {name: [each for each in here if name in services[each][key]] for name in _names(services, here, key)}
        for kind, key in (("database", "databases"), ("bucket", "buckets"))
    }
    match = PART.fullmatch(wanted)
    problems = []
    if not match:
        problems.append(
            f"restore_part is {wanted!r}, expected database:NAME, bucket:NAME or experiment:NAME, such as"
            " database:mlflow."
        )
    elif match[1] in known and match[2] not in known[match[1]]:
        problems.append(f"There is no {match[1]} {match[2]}. There are {', '.join(known[match[1]]) or 'none'}.")
    elif match[1] == "experiment" and "mlflow" not in here:
        problems.append("MLflow does not run on this host.")
    kind, name = (match[1], match[2]) if match else ("", "")
    users = known.get(kind, {}).get(name, [])
    containers = [
        container
        for user in users
        for container, entry in services[user]["containers"].items()
        if entry["here"] and not entry["job"]
    ]
    return {"kind": kind, "name": name, "services": users, "containers": containers, "problems": problems}


def _names(services: Mapping[str, Mapping[str, Any]], here: Iterable[str], key: str) -> list[str]:
    return sorted({name for service in here for name in services[service][key]})


def bucket_changes(now: Iterable[str], then: Iterable[str], only_missing: bool = False) -> dict[str, Any]:
    """Find what takes a bucket back to an earlier moment.

    Args:
        now: What MinIO's client lists at present, a line of JSON each.
        then: What it lists of that moment.
        only_missing: Whether later objects and later content stay as they are.

    Returns:
        ``restore``, id of the version and key of objects that are other ones by now or are gone; ``remove``, keys of
        objects that were not there.

    Raises:
        AnsibleFilterError: If a line cannot be read.
    """
    try:
        # Of a moment, the client also lists what was deleted by then, as versions without content that nobody can copy.
        present, earlier = (
            {each["key"]: each for each in map(json.loads, filter(str.strip, lines)) if not each.get("isDeleteMarker")}
            for lines in (now, then)
        )
        restore = [
            [each["versionId"], key]
            for key, each in earlier.items()
            # By their content: what an earlier restore has brought back is younger than it was.
            if key not in present or (not only_missing and _content(present[key]) != _content(each))
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise AnsibleFilterError(f"The objects cannot be read from what MinIO's client has listed: {error}") from None
    return {"restore": restore, "remove": [] if only_missing else sorted(present.keys() - earlier.keys())}


def _content(listed: Mapping[str, Any]) -> tuple[Any, Any]:
    return listed["etag"], listed["size"]


def drill_predictions(models: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Compare what restored models predict with what the same versions predict in the running stack.

    Args:
        models: Each with ``name`` and ``version``, and what was found of the ``restored`` and the ``live`` one:
            ``digest`` and ``first`` of the prediction, or ``error``.

    Returns:
        ``problems`` and what is ``said``, sentences.
    """
    problems, said = [], []
    for model in models:
        title, restored, live = f"{model['name']} {model['version']}", model["restored"], model["live"]
        if "error" in restored:
            problems.append(f"the champion {title} cannot be loaded: {restored['error']}")
        elif not restored["digest"]:
            said.append(f"The champion {title} is loaded; it has neither an example nor a signature to predict with.")
        elif "error" in live:
            said.append(
                f"The champion {title} predicts {restored['first']}; the running stack's cannot be compared:"
                f" {live['error']}."
            )
        elif live["digest"] != restored["digest"]:
            problems.append(
                f"the champion {title} predicts {restored['first']}, and in the running stack {live['first']}"
            )
        else:
            said.append(f"The champion {title} predicts {restored['first']}, as in the running stack.")
    return {"problems": problems, "said": said}

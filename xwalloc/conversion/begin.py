"""Whether a conversion may begin in a store or go on there, and the note of it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from zarr.abc.store import Store

from xwalloc.conversion import store as objects
from xwalloc.conversion.manifest import Manifest
from xwalloc.conversion.plan import Plan
from xwalloc.errors import ConfigError

__all__ = ["Beginning", "agree", "note_of", "plan_in"]

HASHES = {
    "dataset": "its values or coordinates are other ones",
    "metadata": "its metadata are other ones",
    "sources": "its sources are other ones, or were changed",
}
"""What a difference in a hash of an identity means."""

MOST_DETAILS = 5
"""Differences that a message lists."""


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a conversion finds in its store, and may write there.

    Parameters
    ----------
    manifest
        The record in the store.
    created
        When the conversion was begun, ISO 8601.
    fresh
        Whether nothing was in the store.
    note
        Plan to write; None where it stands there.
    outdated
        Units that count no more, since their source is another one now.
    """

    manifest: Manifest
    created: str
    fresh: bool
    note: dict[str, Any] | None
    outdated: tuple[str, ...]

    def write(self) -> None:
        """Note it in the store.

        Raises
        ------
        ConfigError
            If the store cannot be written to.
        """
        try:
            self.manifest.forget(self.outdated)
            if self.note is not None:
                self.manifest.begin(self.note)
        except OSError as error:
            raise unwritable(self.manifest.store, error) from error

    def undo(self) -> None:
        """Leave a store empty that was."""
        if self.fresh:
            self.manifest.withdraw()


def agree(store: Store, plan: Plan, missing: dict[str, str]) -> Beginning:
    """What may be done in a store; nothing is written.

    Parameters
    ----------
    missing
        Sources that cannot be read, with the reason.

    Raises
    ------
    ConfigError
        If something else is there, or a conversion with other settings or sources.
    """
    manifest = Manifest(store)
    before = plan_in(store)
    if before is None:
        if not objects.is_empty(store):
            remedy = "Choose another place; nothing is ever deleted that is not ours."
            if manifest.notes is not store:
                remedy = "If an earlier conversion was not completed in this session, begin with a new session."
            raise ConfigError(
                f"Expected an empty place for the store. Got {store}, where something is that xwalloc did not convert. "
                f"{remedy}"
            )
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return Beginning(
            manifest=manifest, created=created, fresh=True, note=note_of(plan, missing, created), outdated=()
        )
    created = str(before["created"])
    outdated = refuse_changes(manifest, before, plan, missing)
    same = before["fingerprint"] == plan.fingerprint and before["missing"] == missing
    return Beginning(
        manifest=manifest, created=created, fresh=False, note=None if same else note_of(plan, missing, created),
        outdated=tuple(outdated),
    )  # fmt: skip


def note_of(plan: Plan, missing: dict[str, str], created: str) -> dict[str, Any]:
    """What the record says of a plan."""
    return {
        "fingerprint": plan.fingerprint, "missing": missing, "description": plan.description, "created": created,
    }  # fmt: skip


def plan_in(store: Store) -> dict[str, Any] | None:
    """Plan of the conversion that a store holds, or None.

    Raises
    ------
    ConfigError
        If that cannot be read, or no store can be there.
    """
    try:
        return Manifest(store).plan()
    except OSError as error:
        raise unwritable(store, error) from error


def unwritable(store: Store, error: OSError) -> ConfigError:
    """An error that says why nothing can be written."""
    return ConfigError(
        f"Expected a place that can be written to. Got {store}: {type(error).__name__}: {error}. Check the path and "
        "permissions, or choose another place."
    )


def refuse_changes(manifest: Manifest, before: dict[str, Any], plan: Plan, missing: dict[str, str]) -> list[str]:
    """Refuse to mix settings or sources in one store.

    Sources that could not be read may come later, and those that are not wholly converted may have been repaired.

    Returns
    -------
    list of str
        Units of sources that were repaired: they are written again.
    """
    old, new = before["description"], plan.description
    details = changes("setting ", old["settings"], new["settings"])
    details += changes("", *({"zarr_format": said["zarr_format"]} for said in (old, new)))
    arrays, sources = changed(old["arrays"], new["arrays"]), changed(old["sources"], new["sources"])
    altered = {
        granule.given: f"source {granule.given} has changed ("
        f"{', '.join(identities(old['sources'][granule.path], new['sources'][granule.path]))})"
        for granule in plan.granules
        if granule.path in sources
    }
    outdated: list[str] = []
    if not details:  # else they are other ones because settings are
        for path in arrays:
            details += changes(f"array {path} has changed, ", old["arrays"][path], new["arrays"][path])
    if details:
        details += altered.values()
    elif sources:
        records = manifest.records()
        units: dict[str, list[str]] = {}
        for array in plan.arrays:
            own = units.setdefault(plan.granules[array.granule].given, [])
            own += [array.unit_name(place) for place in array.places()]
        for given, words in altered.items():
            written = [name for name in units.get(given, ()) if name in records]
            if len(written) == len(units.get(given, ())):
                details.append(words)
            outdated += written
    if not missing and not before["missing"] and old["sources"].keys() != new["sources"].keys():
        details.append(f"sources {sorted(old['sources'])} before, {sorted(new['sources'])} now")
    if len(details) > MOST_DETAILS:
        details[MOST_DETAILS:] = [f"{len(details) - MOST_DETAILS} more differences"]
    if details:
        raise ConfigError(
            f"Expected the settings and sources with which the conversion to {manifest.store} was begun. "
            f"{'; '.join(details)}. Use those, choose another place, or give overwrite=True to build it anew."
        )
    return outdated


def changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Keys of both that have another value."""
    return [key for key in sorted(old.keys() & new.keys()) if old[key] != new[key]]


def changes(words: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What was before and is now, of keys of either whose values differ."""
    return [
        f"{words}{key}: {old.get(key, 'not given')} before, {new.get(key, 'not given')} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def identities(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs in the identities of a source."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            found += [f"{key}: {words}" for words in identities(before, now)]
        elif key == "modified" and isinstance(before, int) and isinstance(now, int):
            found.append(f"modified {moment(before)} before, {moment(now)} now")
        elif key in HASHES:
            found.append(HASHES[key])
        else:
            found.append(f"{key} {before} before, {now} now")
    return found


def moment(nanoseconds: int) -> str:
    """A time of change of a file, as ISO 8601."""
    return datetime.datetime.fromtimestamp(nanoseconds / 1e9, datetime.UTC).isoformat(timespec="milliseconds")

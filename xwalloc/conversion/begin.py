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
    details = [
        f"{key}: {old[key]} before, {new[key]} now" for key in ("settings", "zarr_format") if old[key] != new[key]
    ]
    arrays, sources = changed(old["arrays"], new["arrays"]), changed(old["sources"], new["sources"])
    details += [f"array {path} has changed" for path in arrays]
    outdated: list[str] = []
    if sources and not details:
        records = manifest.records()
        for path in sources:
            own = [array for array in plan.arrays if plan.granules[array.granule].path == path]
            units = [array.unit_name(place) for array in own for place in array.places()]
            written = [name for name in units if name in records]
            if len(written) == len(units):
                details.append(f"source {path or '/'} has changed")
            outdated += written
    else:
        details += [f"source {path or '/'} has changed" for path in sources]
    if not missing and not before["missing"] and old["sources"].keys() != new["sources"].keys():
        details.append(f"sources {sorted(old['sources'])} before, {sorted(new['sources'])} now")
    if details:
        raise ConfigError(
            f"Expected the settings and sources with which the conversion to {manifest.store} was begun. "
            f"{'; '.join(details)}. Use those, choose another place, or give overwrite=True to build it anew."
        )
    return outdated


def changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Keys of both that have another value."""
    return [key for key in sorted(old.keys() & new.keys()) if old[key] != new[key]]

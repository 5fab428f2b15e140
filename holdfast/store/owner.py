"""Whose store it is: the project and the stack in OWNER.json."""

from __future__ import annotations

from pydantic import ValidationError

from holdfast.errors import AlreadyExists, NotFound, OwnerMismatch, UsageError
from holdfast.store.base import Store
from holdfast.store.documents import Owner

OWNER = "OWNER.json"


class Owned:
    """The part of a `holdfast.store.snapshot.Catalog` that is about the store's owner."""

    def __init__(self, store: Store, owner: str | None) -> None:
        self.store = store
        self._owner = None if owner is None else _owner(owner)

    @property
    def owner(self) -> str | None:
        """``<project>/<stack>``, or None for who can only read."""
        return None if self._owner is None else str(self._owner)

    def check_owner(self) -> None:
        """Refuse the store of another owner; a store without an owner is accepted."""
        found = self._found_owner()
        if found and self.owner not in (None, found):
            raise OwnerMismatch(
                f"store {self.store.url} belongs to '{found}', not to '{self.owner}': correct the"
                f" prefix; or, if that stack is gone for good, `holdfast adopt {found}`"
            )

    def claim(self) -> None:
        """Become the owner of a store that has none; refuse the store of another owner."""
        try:
            self.store.put_small(OWNER, self._owner_document(), if_absent=True)
        except AlreadyExists:
            self.check_owner()

    def adopt(self, previous: str) -> None:
        """Take the store over from ``previous``, its owner so far; a repeat changes nothing.

        Raises OwnerMismatch when the store has another owner, or none yet.
        """
        data = self._owner_document()
        try:
            etag = self.store.head(OWNER).etag
        except NotFound:
            etag = ""
        found = self._found_owner()
        if found == self.owner:
            return
        if found != previous:
            state = f"belongs to '{found}'" if found else "has no owner yet"
            raise OwnerMismatch(
                f"store {self.store.url} {state}, so it cannot be taken over from '{previous}':"
                " correct --store or the name"
            )
        self.store.put_small(OWNER, data, if_match=etag)

    def _found_owner(self) -> str | None:
        try:
            return str(Owner.model_validate_json(self.store.get(OWNER)))
        except NotFound:
            return None
        except ValidationError as error:
            raise OwnerMismatch(
                f"store {self.store.url}: {OWNER} does not name a project and a stack: this prefix"
                " is not a Holdfast store; use another prefix"
            ) from error

    def _owner_document(self) -> bytes:
        if self._owner is None:
            raise UsageError("writing to a store needs an owner: give --owner <project>/<stack>")
        return self._owner.to_bytes()


def _owner(text: str) -> Owner:
    project, _, stack = text.partition("/")
    try:
        return Owner(project=project, stack=stack)
    except ValidationError:
        raise UsageError(
            f"invalid owner '{text}': expected <project>/<stack>, such as team/prod"
        ) from None

"""A backup bucket that the stack makes, and the registry for its images."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from infra.settings.fields import Model, Region

#: Room for the suffix of the bucket that keeps the access logs.
LOGS_SUFFIX = "-logs"
_LONGEST = 63 - len(LOGS_SUFFIX)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_REPOSITORY = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*(/[a-z0-9]+([._-][a-z0-9]+)*)*")


def _bucket(value: str) -> str:
    if len(value) > _LONGEST or _BUCKET.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not a bucket name: use 3 to {_LONGEST} lower-case letters, digits and "
            "inner hyphens; it must be free in all of AWS"
        )
    return value


def _repository(value: str) -> str:
    if not 2 <= len(value) <= 256 or _REPOSITORY.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not a repository name: use lower-case letters and digits, joined by "
            "'/', '-', '_' or '.'"
        )
    return value


class ObjectLock(Model):
    """For how long no one can delete a version of an object."""

    mode: Literal["governance", "compliance"]
    """``governance``: a person with a special right still can; ``compliance``: no one can, not
    even the account's root, and the bucket cannot be removed before."""
    days: int = Field(ge=1, le=36500)
    """Days after a version was written."""


class Replica(Model):
    """A copy of the bucket that S3 keeps up to date, for the loss of a region or an account."""

    name: Annotated[str, AfterValidator(_bucket)]
    """The copy's bucket. The stack makes it as the store's own (versions, key, Object Lock), unless
    it is in another account."""
    region: Region
    """Where it is: another region, unless it is in another account."""
    account: str | None = Field(default=None, pattern=r"^\d{12}$")
    """Another account, which has made the bucket and its key: docs/eks.md says how."""
    key_arn: str | None = Field(default=None, pattern=r"^arn:aws:kms:[\w-]+:\d{12}:key/[\w-]+$")
    """The key of a bucket in another account."""

    @model_validator(mode="after")
    def _another_accounts_bucket_has_a_key(self) -> "Replica":
        if (self.account is None) != (self.key_arn is None):
            raise ValueError(
                "give both of account and key_arn (a bucket in another account), or neither (the "
                "stack makes bucket and key)"
            )
        if self.key_arn is not None:
            region, account = self.key_arn.split(":")[3:5]
            if (region, account) != (self.region, self.account):
                raise ValueError(
                    f"key_arn {self.key_arn} is in account {account} and region {region}: "
                    f"use a key in account {self.account} and region {self.region}"
                )
        return self


class CreatedStore(Model):
    """A bucket of the stack's own: versioned, encrypted, private, kept when the stack goes."""

    name: Annotated[str, AfterValidator(_bucket)]
    """Its name: explicit, so that a new stack can take up the store of a lost one."""
    object_lock: ObjectLock | None = None
    """Keeps versions from deletion. Default: off; it cannot be switched off again."""
    noncurrent_days: int = Field(default=90, ge=1, le=36500)
    """Days that overwritten and deleted objects can still be brought back."""
    log_days: int = Field(default=365, ge=1, le=3650)
    """Days that the access logs are kept."""
    replica: Replica | None = None
    """A copy in another region or account. S3 copies what is written from then on, within minutes;
    storage costs twice, and traffic between regions."""

    @model_validator(mode="after")
    def _locked_versions_can_expire(self) -> "CreatedStore":
        lock = self.object_lock
        if lock is not None and self.noncurrent_days < lock.days:
            raise ValueError(
                f"noncurrent_days {self.noncurrent_days} is less than object_lock.days "
                f"{lock.days}, before which nothing can expire: use at least {lock.days}"
            )
        return self


class Registry(Model):
    """ECR repositories for the stack's images."""

    repositories: tuple[Annotated[str, AfterValidator(_repository)], ...] = (
        "holdfast/tools",
        "holdfast/training",
    )
    """Their names; empty where images come from elsewhere."""
    keep: int = Field(default=50, ge=1, le=1000)
    """Images that stay in each; older ones expire."""

    @field_validator("repositories")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is given twice: name each repository once")
        return names

"""S3 buckets and the resources that complete them."""

from collections.abc import Iterator, Sequence

from policy.model import UNKNOWN, Resource, at, items

BUCKET = ("aws:s3/bucket:Bucket", "aws:s3/bucketV2:BucketV2")


def buckets(resources: Sequence[Resource]) -> Iterator[Resource]:
    """The stack's buckets."""
    return (resource for resource in resources if resource.type in BUCKET)


def parts(resources: Sequence[Resource], part: str, bucket: Resource) -> list[Resource]:
    """The resources of type ``aws:s3/bucket<part>`` that belong to a bucket: they name it or, where
    the name is not known yet, take it from there."""
    types = (f"aws:s3/bucket{part}:Bucket{part}", f"aws:s3/bucket{part}V2:Bucket{part}V2")
    return [r for r in resources if r.type in types and _names(r, "bucket", bucket)]


def receives_logs(resources: Sequence[Resource], bucket: Resource) -> bool:
    """Whether S3 delivers access logs into this bucket, which it does with its own keys only."""
    types = ("aws:s3/bucketLogging:BucketLogging", "aws:s3/bucketLoggingV2:BucketLoggingV2")
    return any(r.type in types and _names(r, "targetBucket", bucket) for r in resources)


def _names(resource: Resource, key: str, bucket: Resource) -> bool:
    value, name = at(resource.inputs, key), at(bucket.inputs, "bucket")
    identities = [v for v in (*items(name), *items(at(bucket.inputs, "id"))) if v]
    if value is UNKNOWN or not identities:
        sources = resource.sources or {key: resource.dependencies}
        return bucket.urn in sources.get(key, ())
    return value in identities or value == f"{bucket.name}-id"

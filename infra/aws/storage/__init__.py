"""What keeps data in AWS: disks, file systems, buckets, the registry."""

"""What is behind a volume that is there already, and how to say it."""

from infra.manifests import Manifest
from infra.settings import HostPathVolume, IscsiVolume, NfsVolume, Volume


def source_of(volume: Volume) -> Manifest | None:
    """What a PersistentVolume's spec says of a volume that is there already; None for a claim."""
    match volume:
        case HostPathVolume():
            on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [volume.node]}
            term = {"matchExpressions": [on_node]}
            return {
                "hostPath": {"path": volume.path, "type": "DirectoryOrCreate"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
            }
        case NfsVolume():
            return {
                "nfs": {"server": volume.server, "path": volume.path},
                "mountOptions": list(volume.mount_options),
            }
        case IscsiVolume():
            return {
                "iscsi": {
                    "targetPortal": volume.portal,
                    "iqn": volume.iqn,
                    "lun": volume.lun,
                    "fsType": "ext4",
                }
            }
    return None


def describe(spec: Manifest) -> str:
    """Where a PersistentVolume keeps its data, in a few words."""
    match spec:
        case {"hostPath": {"path": path}}:
            node = ""
            for term in (
                spec.get("nodeAffinity", {}).get("required", {}).get("nodeSelectorTerms", ())
            ):
                node = "".join(
                    f" of node {n}" for m in term["matchExpressions"] for n in m["values"]
                )
            return f"{path}{node}"
        case {"nfs": {"server": server, "path": path}}:
            return f"{server}:{path}"
        case {"iscsi": {"iqn": iqn, "lun": lun}}:
            return f"{iqn}, unit {lun}"
        case {"csi": {"volumeHandle": handle}}:
            return str(handle)
    return "a place of its own"

"""One node with its control plane, as plain processes: no init system, no Docker.

The recipe with its reasons is in docs/cluster.md. Started in this order, stopped in the reverse.
"""

import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
from pathlib import Path

import psutil
import yaml

from cluster import gates, keys, processes
from cluster.errors import ClusterProblem
from cluster.places import KUBECONFIG, LOGS, STATE, kubernetes, tools_first

#: As kind calls its node, so that the stack `local` fits without a change.
NODE = "kind-control-plane"
PAUSE_IMAGE = "localhost/pause:dev"
SERVICES = "10.96.0.0/16"
DNS = "10.96.0.10"
PODS = "10.244.0.0/16"
_BRIDGE = "holdfast0"
#: Not etcd's usual ports: Debian's package starts one there on a machine with systemd.
_ETCD_PORT, _ETCD_PEERS_PORT = 12379, 12380
_ETCD = f"http://127.0.0.1:{_ETCD_PORT}"
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_SOCKET = STATE / "containerd.sock"
#: Debian packages, by a program that each brings.
PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "etcd": "etcd-server",
    "nft": "nftables",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "openssl": "openssl",
    "mmdebstrap": "mmdebstrap",
    "gcc": "gcc libc6-dev",
    "nsenter": "util-linux",
    "ip": "iproute2",
}
_CNI = Path("/usr/lib/cni")
#: In the order of their start.
PROCESSES = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "mounts",
    "containerd",
    "kubelet",
    "kube-proxy",
)


def requirements() -> list[str]:
    """Debian packages that are missing.

    Raises:
        ClusterProblem: this cannot be a node, and no package changes that.
    """
    must_be_root()
    if (machine := platform.machine()) != "x86_64":
        raise ClusterProblem(f"the images are for x86_64, and this machine is {machine}")
    privileged = "start the container with --privileged, or name another cluster by CONTEXT"
    if not _quiet(["unshare", "--mount", "true"]):
        raise ClusterProblem(f"this machine may make no mount namespace: {privileged}")
    if _FORWARDING.read_text().strip() != "1" and not os.access(_FORWARDING, os.W_OK):
        raise ClusterProblem(f"{_FORWARDING} cannot be set to 1, and pods need it: {privileged}")
    packages = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if not (_CNI / "bridge").exists():
        packages.append("containernetworking-plugins")
    return packages


def must_be_root() -> None:
    """A container runtime mounts, and makes interfaces and namespaces."""
    if os.geteuid() != 0:
        raise ClusterProblem("a node needs root: run as root, or name another cluster by CONTEXT")


def address() -> str:
    """The machine's own address: what pods can reach, unlike 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; asks which interface would
        except OSError:
            raise ClusterProblem(
                "this machine has no route to anywhere: give an interface an address and a "
                "default route, which pods need to reach the API server"
            ) from None
        return str(probe.getsockname()[0])


def start_control_plane() -> None:
    """etcd, API server, controllers and scheduler, until they answer."""
    here = address()
    gates.choose(running=processes.running("kube-apiserver") is not None)
    keys.make(here)
    processes.start(
        "etcd",
        ["etcd", f"--data-dir={STATE / 'etcd'}", f"--listen-client-urls={_ETCD}",
         f"--advertise-client-urls={_ETCD}",
         f"--listen-peer-urls=http://127.0.0.1:{_ETCD_PEERS_PORT}"],
    )  # fmt: skip
    # Ours, and not another one that has the port: the API server would take that.
    processes.wait("etcd", lambda: _listens("etcd", _ETCD_PORT))
    k = keys.KEYS
    processes.start(
        "kube-apiserver",
        [program("kube-apiserver"), f"--advertise-address={here}", f"--etcd-servers={_ETCD}",
         f"--secure-port={keys.PORT}", f"--service-cluster-ip-range={SERVICES}",
         "--authorization-mode=Node,RBAC", "--allow-privileged=true",
         f"--token-auth-file={k}/tokens.csv", f"--client-ca-file={k}/ca.crt",
         f"--tls-cert-file={k}/server.crt", f"--tls-private-key-file={k}/server.key",
         "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
         f"--service-account-key-file={k}/accounts.key",
         f"--service-account-signing-key-file={k}/accounts.key",
         # Else logs and exec go to the node's name, which nothing resolves.
         "--kubelet-preferred-address-types=InternalIP",
         f"--kubelet-client-certificate={k}/kubelet-client.crt",
         f"--kubelet-client-key={k}/kubelet-client.key",
         # An aggregated API that does not answer keeps every namespace from going.
         f"--requestheader-client-ca-file={k}/ca.crt",
         f"--requestheader-allowed-names={keys.AGGREGATOR}",
         "--requestheader-username-headers=X-Remote-User",
         "--requestheader-group-headers=X-Remote-Group",
         "--requestheader-extra-headers-prefix=X-Remote-Extra-",
         f"--proxy-client-cert-file={k}/{keys.AGGREGATOR}.crt",
         f"--proxy-client-key-file={k}/{keys.AGGREGATOR}.key", *gates.flags()],
    )  # fmt: skip
    processes.wait("kube-apiserver", lambda: kubectl_answers("get", "--raw", "/readyz"))
    login = f"--kubeconfig={KUBECONFIG}"
    processes.start(
        "kube-controller-manager",
        [program("kube-controller-manager"), login, "--use-service-account-credentials=true",
         f"--root-ca-file={k}/ca.crt", f"--service-account-private-key-file={k}/accounts.key",
         f"--cluster-signing-cert-file={k}/ca.crt", f"--cluster-signing-key-file={k}/ca.key",
         "--allocate-node-cidrs=true", f"--cluster-cidr={PODS}", "--leader-elect=false",
         *gates.flags()],
    )  # fmt: skip
    processes.start(
        "kube-scheduler",
        [program("kube-scheduler"), login, "--leader-elect=false", *gates.flags()],
    )


def start_runtime() -> None:
    """containerd, in a mount namespace of the node's own: `/` may be a private mount, over which
    a pod's volumes would not reach its containers."""
    for name, document in (
        ("containerd.toml", _containerd()),
        ("cni/10-bridge.conflist", json.dumps(_network(), indent=2)),
    ):
        file = STATE / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(document)
    if _FORWARDING.read_text().strip() != "1":
        _FORWARDING.write_text("1")
    if processes.running("mounts") is None:
        ready = STATE / "mounts-ready"
        ready.unlink(missing_ok=True)
        script = f"mount --make-rshared / && touch {ready} && exec sleep infinity"
        # A shared `/` would get the pods' mounts, and keep them when the namespace is gone.
        processes.start(
            "mounts", ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script]
        )
        processes.wait("mounts", ready.exists)
    processes.start("containerd", _inside("containerd", "--config", str(STATE / "containerd.toml")))
    processes.wait("containerd", lambda: _quiet(ctr("version")))


def start_kubelet() -> None:
    """The kubelet and kube-proxy; the node is Ready some seconds later."""
    config = STATE / "kubelet.yaml"
    config.write_text(yaml.safe_dump(_kubelet()))
    processes.start(
        "kubelet",
        _inside(
            program("kubelet"), f"--config={config}", f"--kubeconfig={KUBECONFIG}",
            f"--hostname-override={NODE}", f"--node-ip={address()}",
            f"--root-dir={STATE / 'kubelet'}",
        ),
    )  # fmt: skip
    processes.start(
        "kube-proxy",
        [program("kube-proxy"), f"--kubeconfig={KUBECONFIG}", "--proxy-mode=nftables",
         f"--hostname-override={NODE}", f"--cluster-cidr={PODS}", "--conntrack-max-per-core=0"],
    )  # fmt: skip


def stop() -> None:
    """Everything, containers first; what the kernel would keep is removed. Data and logs stay."""
    processes.stop("kubelet")
    processes.stop("kube-proxy")
    networks = _network_namespaces()
    if processes.running("containerd") is not None:
        kill_containers()
    for name in reversed(PROCESSES):
        processes.stop(name)
    _kill_shims()  # of a containerd that had died
    subprocess.run(["ip", "link", "delete", _BRIDGE], check=False, capture_output=True)
    for table in ("ip kube-proxy", "ip6 kube-proxy"):
        subprocess.run(["nft", "delete", "table", *table.split()], check=False, capture_output=True)
    for left in networks:
        subprocess.run(["umount", str(left)], check=False, capture_output=True)
        left.unlink(missing_ok=True)
    shutil.rmtree(STATE / "cni-state", ignore_errors=True)
    shutil.rmtree("/var/lib/cni/networks/holdfast", ignore_errors=True)
    for group in sorted(Path("/sys/fs/cgroup").glob("**/kubepods*/**/"), reverse=True):
        with contextlib.suppress(OSError):
            group.rmdir()
    for group in Path("/sys/fs/cgroup").glob("*/kubepods"):
        with contextlib.suppress(OSError):
            group.rmdir()


def cut_power() -> None:
    """The node loses power: each of its processes at once, then what a boot would not find.

    containerd is gone before it can note how its containers end, as on a machine that is off.
    """
    for name in ("kubelet", "kube-proxy", "containerd"):
        processes.stop(name, kill=True)
    _kill_shims()
    run = STATE / "run"
    subprocess.run(
        _inside("sh", "-c", f"""awk -v below={run}/ 'index($5, below) == 1 {{print $5}}' \
                /proc/self/mountinfo | sort --reverse | xargs --no-run-if-empty umount --lazy"""),
        check=True, capture_output=True,
    )  # fmt: skip
    shutil.rmtree(run)


def kill_containers() -> None:
    """All of them, and what containerd knows of their processes."""
    listed = subprocess.run(ctr("tasks", "list", "--quiet"), capture_output=True, text=True)
    for container in listed.stdout.split():
        subprocess.run(ctr("tasks", "kill", "--all", "--signal", "SIGKILL", container),
                       check=False, capture_output=True)  # fmt: skip
    for container in listed.stdout.split():
        subprocess.run(ctr("tasks", "delete", "--force", container), check=False,
                       capture_output=True)  # fmt: skip


def _kill_shims() -> None:
    """The parents of our containers that are still there, and all below them."""
    shims = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(_SOCKET) in (process.info["cmdline"] or ())
    ]
    for shim in shims:
        with contextlib.suppress(psutil.NoSuchProcess):
            below = shim.children(recursive=True)
            for process in [shim, *below]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def _network_namespaces() -> list[Path]:
    """Those of our pods; other runtimes of the machine have theirs beside them."""
    return [
        Path(each["path"])
        for file in (STATE / "run").glob("io.containerd.runtime.v2.task/k8s.io/*/config.json")
        for each in json.loads(file.read_text())["linux"]["namespaces"]
        if each["type"] == "network" and "/netns/cni-" in each.get("path", "")
    ]


def _listens(name: str, port: int) -> bool:
    """Whether the process that we started is the one at this port."""
    process = processes.running(name)
    found = process.net_connections("tcp") if process else []
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in found)


def ctr(*arguments: str) -> list[str]:
    """A command of containerd's own client, in the namespace that the kubelet uses."""
    return _inside("ctr", "--address", str(_SOCKET), "--namespace", "k8s.io", *arguments)


def program(name: str) -> str:
    """One of Kubernetes' own, of the version that the cluster has."""
    return str(kubernetes() / name)


def kubectl(*arguments: str) -> list[str]:
    """A kubectl command on this cluster."""
    return [program("kubectl"), f"--kubeconfig={KUBECONFIG}", *arguments]


def kubectl_answers(*arguments: str) -> bool:
    return KUBECONFIG.exists() and _quiet(kubectl("--request-timeout=5s", *arguments))


def _quiet(command: list[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _inside(*command: str) -> list[str]:
    """A command in the node's mount namespace, as the same process."""
    # Each of them is in it.
    holders = (processes.running(name) for name in ("mounts", "containerd", "kubelet"))
    holder = next(filter(None, holders), None)
    if holder is None:
        raise ClusterProblem("the node's mount namespace is gone: make cluster-down, make cluster")
    return ["nsenter", "--mount", f"--target={holder.pid}", "--", *command]


def _containerd() -> str:
    return f"""\
version = 2
root = "{STATE / "containerd"}"
state = "{STATE / "run"}"
[grpc]
  address = "{_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Root without CAP_SYS_RESOURCE may not lower an OOM score; no sandbox would start.
  restrict_oom_score_adj = true
  enable_unprivileged_ports = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{_CNI}"
    conf_dir = "{STATE / "cni"}"
"""


def _network() -> dict[str, object]:
    return {
        "cniVersion": "0.4.0",
        "name": "holdfast",
        "plugins": [
            {
                "type": "bridge",
                "bridge": _BRIDGE,
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "10.244.0.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _kubelet() -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(keys.KEYS / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "maxOpenFiles": 20000,
        # Kubernetes waits for up to five minutes between two restarts of a container. Tests that
        # kill one many times would wait with it; 10 s is its first pause.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "10s"},
        # An image that was collected could not be pulled again: there is no registry.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "podLogsDir": str(LOGS / "pods"),
        "resolvConf": "/etc/resolv.conf",
        "registerNode": True,
        "featureGates": gates.as_settings(),
    }


def environment() -> dict[str, str]:
    """With our kubectl, and this cluster's kubeconfig."""
    return {**tools_first(), "KUBECONFIG": str(KUBECONFIG)}

"""The certificate authority, certificates, token and kubeconfig of one cluster.

A cluster's own: they go with it, so no kubeconfig of an earlier one opens a later one.
"""

import secrets
import shutil
import subprocess
from pathlib import Path

import yaml

from cluster.places import KUBECONFIG, STATE

KEYS = STATE / "keys"
CONTEXT = "holdfast-cluster"
#: The first address of the services' range: what pods know the API server by.
API_SERVICE = "10.96.0.1"
PORT = 6443
#: Who the API server is to the servers of aggregated APIs, such as Kueue's.
AGGREGATOR = "aggregator"
_DAYS = "365"


def make(address: str) -> None:
    """Everything that is not there yet; the kubeconfig is written anew each time.

    Args:
        address: the node's, at which the API server answers.
    """
    if not KEYS.exists():
        unfinished = KEYS.with_name("keys-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True, mode=0o700)
        _fill(unfinished)
        unfinished.rename(KEYS)
    # A machine may have another address than when it was a node last.
    known = KEYS / "address"
    if not known.exists() or known.read_text() != address:
        _signed(
            KEYS,
            "server",
            "/CN=kube-apiserver",
            f"IP:{address},IP:127.0.0.1,IP:{API_SERVICE},DNS:localhost,DNS:kubernetes.default.svc,"
            "DNS:kubernetes.default,DNS:kubernetes.default.svc.cluster.local",
        )
        known.write_text(address)
    _kubeconfig(address)


def _fill(folder: Path) -> None:
    """What does not depend on the node's address."""
    _openssl(
        folder,
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=holdfast-ca "
        f"-days {_DAYS}",
    )
    _signed(folder, "kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    _signed(folder, AGGREGATOR, f"/CN={AGGREGATOR}")
    _openssl(folder, "genrsa -out accounts.key 2048")
    token = secrets.token_hex(24)
    (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    (folder / "token").write_text(token)


def _signed(folder: Path, name: str, subject: str, names: str = "") -> None:
    """A certificate of the authority."""
    _openssl(
        folder,
        f"req -new -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj {subject}",
    )
    extensions = f"subjectAltName={names}\n" if names else "extendedKeyUsage=clientAuth\n"
    (folder / f"{name}.ext").write_text(extensions)
    _openssl(
        folder,
        f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt "
        f"-days {_DAYS} -extfile {name}.ext",
    )


def _openssl(folder: Path, arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)


def _kubeconfig(address: str) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": CONTEXT,
                "cluster": {
                    "server": f"https://{address}:{PORT}",
                    "certificate-authority": str(KEYS / "ca.crt"),
                },
            }
        ],
        "users": [{"name": "admin", "user": {"token": (KEYS / "token").read_text()}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": "admin"}}],
        "current-context": CONTEXT,
    }
    KUBECONFIG.parent.mkdir(parents=True, exist_ok=True)
    KUBECONFIG.touch(mode=0o600)
    KUBECONFIG.write_text(yaml.safe_dump(document))
    return KUBECONFIG

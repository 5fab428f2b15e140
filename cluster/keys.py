"""The cluster's certificate authority, certificates, token and kubeconfig."""

import secrets
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
    KEYS.mkdir(parents=True, exist_ok=True)
    KEYS.chmod(0o700)
    known = KEYS / "address"
    if not (KEYS / "token").exists():
        _openssl(
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=holdfast-ca "
            f"-days {_DAYS}"
        )
        _signed("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
        _openssl("genrsa -out accounts.key 2048")
        token = secrets.token_hex(24)
        (KEYS / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
        (KEYS / "token").write_text(token)
    if not (KEYS / f"{AGGREGATOR}.crt").exists():  # keys of an older clone have none
        _signed(AGGREGATOR, f"/CN={AGGREGATOR}")
    # A machine may have another address than when it was a node last.
    if not known.exists() or known.read_text() != address:
        _signed(
            "server",
            "/CN=kube-apiserver",
            f"IP:{address},IP:127.0.0.1,IP:{API_SERVICE},DNS:localhost,DNS:kubernetes.default.svc,"
            "DNS:kubernetes.default,DNS:kubernetes.default.svc.cluster.local",
        )
        known.write_text(address)
    _kubeconfig(address)


def _signed(name: str, subject: str, names: str = "") -> None:
    """A certificate of the authority."""
    _openssl(f"req -new -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj {subject}")
    extensions = f"subjectAltName={names}\n" if names else "extendedKeyUsage=clientAuth\n"
    (KEYS / f"{name}.ext").write_text(extensions)
    _openssl(
        f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt "
        f"-days {_DAYS} -extfile {name}.ext"
    )


def _openssl(arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], cwd=KEYS, check=True, capture_output=True)


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

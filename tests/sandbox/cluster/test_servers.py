"""What runs for good: addresses of Services, Secrets, entry points of images, a real PostgreSQL."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.pipeline import programs
from sandbox.cluster import images
from sandbox.cluster.services import Services, listening
from sandbox.errors import Unsupported
from testkit.postgresql import copy_installation
from tests.sandbox.tiny import PROJECT, Factory, claim, container, shell, until

LABELS = {"app": "server"}


def server(*containers: dict[str, Any], kind: str = "Deployment", **pod: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": list(containers), **pod}}
    return {
        "kind": kind,
        "metadata": {"name": "server", "namespace": "training"},
        "spec": {"template": template},
    }


def service(port: int = 5000, name: str = "server") -> dict[str, Any]:
    return {
        "kind": "Service",
        "metadata": {"name": name, "namespace": "training"},
        "spec": {"selector": LABELS, "ports": [{"port": port}]},
    }


def secret(**texts: str) -> dict[str, Any]:
    return {
        "kind": "Secret",
        "metadata": {"name": "login", "namespace": "training"},
        "stringData": texts,
    }


def addresses(template: dict[str, Any] | None = None) -> Services:
    declared = template or server(container(["x"]))["spec"]["template"]
    return Services([service()], [("training", declared)])


def test_a_name_of_a_service_becomes_an_address_of_the_loopback_device() -> None:
    found = addresses()
    address = found.of("training", "server")

    assert address.startswith("127.")
    for given, expected in {
        "http://server.training.svc:5000": f"http://{address}:5000",
        "server.training.svc.cluster.local": address,
        "a,server.training.svc:*": f"a,{address}:*",
        "other-server.training.svc": "other-server.training.svc",
        "server.training.svcs": "server.training.svcs",
    }.items():
        assert found.reachable("training", "URL", given) == expected


def test_a_short_name_counts_where_a_host_is_meant_and_in_its_own_namespace() -> None:
    found = addresses()

    assert found.reachable("training", "PGHOST", "server") == found.of("training", "server")
    assert found.reachable("training", "HOLDFAST_RUN", "server") == "server"
    assert found.reachable("elsewhere", "PGHOST", "server") == "server"


def test_two_sandboxes_do_not_meet_on_one_port() -> None:
    found = {addresses().of("training", "server") for _ in range(20)}

    assert len(found) > 1


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("0.0.0.0", "127.1.2.3"),
        ("--host=127.0.0.1", "--host=127.1.2.3"),
        ("10.0.0.0.1", "10.0.0.0.1"),
        ("127.0.0.10", "127.0.0.10"),
    ],
)
def test_all_addresses_and_the_loopback_of_a_pod_are_its_own(word: str, expected: str) -> None:
    assert listening(word, "127.1.2.3") == expected


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that a program of this machine has on all addresses."""
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_that_is_taken_on_all_addresses_is_another_one_here(taken: int) -> None:
    pod = server(container(["x"]))["spec"]["template"]
    found = Services([service(taken)], [("training", pod)])
    address, url = found.of("training", "server"), found.url("training", "server")
    port = int(url.rpartition(":")[2])

    assert port != taken
    assert found.reachable("training", "URI", f"http://server.training.svc:{taken}/x") == f"{url}/x"
    assert listening(str(taken), address, found.moved(address)) == str(port)
    assert listening(str(taken), "127.1.2.3", found.moved("127.1.2.3")) == str(taken)
    assert found.ports({"PORT": str(taken)}, address) == {"PORT": str(port)}
    client = {"PGHOST": address, "PGPORT": str(taken), "OTHERPORT": str(taken)}
    assert found.ports(client, None) == {"PGPORT": str(port), "OTHERPORT": str(taken)}


def test_a_secret_reaches_a_container_as_variables_and_as_files(make_cluster: Factory) -> None:
    script = 'echo "$PASSWORD $USER_user $(cat $FILES/word) $(ls $FILES)" > $DATA/told; sleep 60'
    pod = server(
        container(
            shell(script),
            envFrom=[{"secretRef": {"name": "login"}, "prefix": "USER_"}],
            env=[
                {"name": "PASSWORD",
                 "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
                {"name": "FILES", "value": "/files"},
                {"name": "DATA", "value": "/data"},
            ],
            volumeMounts=[{"name": "files", "mountPath": "/files"},
                          {"name": "data", "mountPath": "/data"}],
        ),
        volumes=[
            {"name": "files", "secret": {"secretName": "login",
                                         "items": [{"key": "password", "path": "word"}]}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
        ],
    )  # fmt: skip
    cluster = make_cluster(pod, secret(password="s3cret", user="ann"), claim())
    cluster.start()
    told = cluster.state / "volumes/data-vol/told"

    until(lambda: told.exists() and told.read_text())

    assert told.read_text() == "s3cret ann s3cret word\n"


def test_an_init_container_that_succeeded_is_not_started_again(make_cluster: Factory) -> None:
    pod = server(
        container(shell("sleep 60")),
        initContainers=[container(shell("true"), name="first")],
    )
    cluster = make_cluster(pod)
    cluster.start()
    (deployment,) = cluster.deployments.values()

    until(lambda: deployment.active and "main" in deployment.active._processes)

    assert deployment.pods[0].restarts == {}


def test_a_hook_runs_beside_its_container(make_cluster: Factory) -> None:
    hook = {"postStart": {"exec": {"command": shell("echo hooked on 127.0.0.1")}}}
    cluster = make_cluster(server(container(shell("sleep 60"), lifecycle=hook)), service())
    cluster.start()
    log = cluster.state / "pods/server-1/main.log"

    until(lambda: log.exists() and log.read_text())

    assert log.read_text() == f"hooked on {cluster.services.of('training', 'server')}\n"


def test_the_files_of_our_images_are_found_by_their_containerfile() -> None:
    found = images.of("registry.example/holdfast-tracking:dev", PROJECT).files

    assert found["/opt/holdfast/users.py"] == PROJECT / "images/tracking/users.py"


def test_a_socket_has_a_place_however_long_the_name_of_its_pod_is() -> None:
    long = f"/{'x' * 100}/run"

    assert images.socket_directory("/short/run") == "/short/run"
    assert len(images.socket_directory(long)) < 40
    assert images.socket_directory(long) != images.socket_directory(f"/y{long}")


@pytest.mark.pipeline
def test_a_postgresql_of_another_version_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="no PostgreSQL 11 on this machine"):
        images.of("postgres:11.3", PROJECT)


@pytest.mark.pipeline
@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_a_database_is_made_in_a_checkout_that_others_cannot_enter(tmp_path: Path) -> None:
    (closed := tmp_path / "closed").mkdir(mode=0o700)
    found = copy_installation(next(iter(programs.installations())).parent, closed) / "bin"
    (password := closed / "password").write_text("s3cret")
    environment = {
        "PATH": f"{found}{os.pathsep}{os.environ['PATH']}",
        "PGDATA": str(closed / "data" / "pgdata"),
        "PGHOST": str(closed / "sockets"),
        "POSTGRES_USER": "ann",
        "POSTGRES_DB": "rows",
        "POSTGRES_PASSWORD_FILE": str(password),
    }

    command = [sys.executable, "-m", "sandbox.cluster.postgres", "-C", "data_directory"]
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )

    assert done.stdout.strip() == environment["PGDATA"], done.stderr


@pytest.mark.pipeline
@pytest.mark.slow
def test_a_database_of_the_stack_keeps_its_rows_over_a_kill(
    make_cluster: Factory, tmp_path: Path
) -> None:
    mounts = {"volume": "/var/lib/postgresql/data", "run": "/var/run/postgresql", "word": "/word"}
    database = server(
        {
            "name": "postgresql",
            "image": "postgres:16.14-bookworm",
            "args": ["-c", "password_encryption=scram-sha-256"],
            "env": [
                {"name": name, "value": value}
                for name, value in {
                    "POSTGRES_USER": "ann",
                    "POSTGRES_DB": "rows",
                    "POSTGRES_PASSWORD_FILE": "/word/password",
                    "PGDATA": "/var/lib/postgresql/data/pgdata",
                }.items()
            ],
            "volumeMounts": [{"name": n, "mountPath": p} for n, p in mounts.items()],
        },
        kind="StatefulSet",
        volumes=[
            {"name": "volume", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "run", "emptyDir": {}},
            {"name": "word", "secret": {"secretName": "login"}},
        ],
    )
    cluster = make_cluster(database, service(5432), secret(password="s3cret"), claim())
    address, port = cluster.services.url("training", "server").removeprefix("http://").split(":")
    cluster.start()
    (running,) = cluster.databases.values()

    def ask(statement: str) -> str:
        command = [programs.find("psql"), "--quiet", "--tuples-only", "--command", statement]
        login = {"PGHOST": address, "PGPORT": port, "PGUSER": "ann", "PGDATABASE": "rows",
                 "PGPASSWORD": "s3cret"}  # fmt: skip
        done = subprocess.run(command, env=login, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    until(lambda: ask("SELECT 1"), 60)
    ask("CREATE TABLE t AS SELECT 42 AS x")
    first = running.active
    assert first is not None
    first.kill()

    until(lambda: running.active not in (None, first) and ask("SELECT 1"), 60)

    assert ask("SELECT x FROM t") == "42"


def test_two_volumes_of_one_directory_are_one(make_cluster: Factory) -> None:
    """A store on a node has a PersistentVolume in each namespace."""

    def volume(name: str, path: str) -> dict[str, Any]:
        spec = {"hostPath": {"path": path}}
        return {"kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}

    volumes = [volume("a-vol", "/store"), volume("b-vol", "/store"), volume("c-vol", "/other")]
    cluster = make_cluster(*volumes, claim("a"), claim("b"), claim("c"))
    found = [cluster.volume("training", name) for name in "abc"]

    assert found[0] == found[1] != found[2]

"""Images are written as OCI archives."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cluster import build, images
from cluster.places import PROJECT
from cluster.versions import Minor
from infra.settings import EksStack, load
from infra.versions import MINORS


def test_each_blob_of_an_archive_is_named_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_LAYERS", tmp_path)
    layer = images.Layer("hello", "1", lambda tar: images._add(tar, "hello", b"world"))
    archive = io.BytesIO()

    image = images.Image("localhost/hello:dev", (layer,), ("--to", "you"), entry=("/hello",))
    images.archive(image, archive)

    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        content = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore
    for name, blob in content.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}"
    named = json.loads(content["index.json"])["manifests"][0]
    assert named["annotations"]["io.containerd.image.name"] == "localhost/hello:dev"
    manifest = json.loads(content[_blob(named)])
    assert [content[_blob(each)] for each in manifest["layers"]]
    config = json.loads(content[_blob(manifest["config"])])["config"]
    assert config["User"] == "1000:1000"
    assert (config["Entrypoint"], config["Cmd"]) == (["/hello"], ["--to", "you"])


def test_a_layer_is_made_again_only_when_its_key_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_LAYERS", tmp_path)
    made = []

    def fill(tar: tarfile.TarFile) -> None:
        made.append(tar)

    for key in ("1", "1", "2"):
        images._layer(images.Layer("hello", key, fill))

    assert len(made) == 2
    assert len(list(tmp_path.glob("*.tar"))) == 1


def test_a_pod_need_not_compile_the_modules_of_its_image(tmp_path: Path) -> None:
    """Its root is read-only: it could not keep what it compiled."""
    source = tmp_path / "hello.py"
    source.write_text("print('hello')\n")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        images._add_bytecode(tar, source, "lib/hello.py")

    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (tmp_path / "lib" / "hello.py").write_text("raise SystemExit('compiled again')\n")
    done = subprocess.run(
        [sys.executable, "-c", "import hello"], cwd=tmp_path / "lib", capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("hello\n", "")


def test_a_pod_need_not_compile_packages_either(tmp_path: Path) -> None:
    layer = images._packages("click", ["click"])
    assert layer.fill is not None
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        layer.fill(tar)

    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        tar.extractall(tmp_path, filter="data")
    packages = tmp_path / images._PACKAGES
    script = f"import sys; sys.path.insert(0, {str(packages)!r}); import click"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-v", "-c", script], capture_output=True, text=True
    )
    assert f"# code object from '{packages}/click/__pycache__/core." in done.stderr
    assert f"# wrote '{packages}" not in done.stderr


def test_a_module_for_another_python_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "old.py"
    source.write_text("print 'hello'\n")
    archive = io.BytesIO()

    with tarfile.open(fileobj=archive, mode="w") as tar:
        images._add_bytecode(tar, source, "lib/old.py")
        assert tar.getnames() == []
    assert capsys.readouterr().err == ""


def test_what_is_built_has_the_versions_that_the_stacks_pin() -> None:
    requirements = (PROJECT / "requirements.txt").read_text()
    assert f"pulumi-kubernetes=={build.PROVIDER}\n" in requirements
    assert f"pulumi-random=={build.RANDOM}\n" in requirements
    stack = load("prod")
    assert isinstance(stack, EksStack)
    assert stack.cluster.version == Minor.PINNED
    assert set(Minor) <= set(MINORS)


def _blob(described: dict[str, str]) -> str:
    return "blobs/" + described["digest"].replace(":", "/")

"""What is changed in the manifests of Kueue, JobSet and Trainer before they are applied."""

import yaml

from cluster import queues


def test_a_controller_runs_our_image_and_never_asks_a_registry() -> None:
    container = {"name": "manager", "image": "elsewhere/kueue:v0.17.0", "args": ["--config=x"]}
    deployment = {"spec": {"template": {"spec": {"containers": [container]}}}}
    queues._run_ours(deployment, queues.KUEUE)
    assert container["image"] == "localhost/kueue:dev"
    assert container["imagePullPolicy"] == "Never"
    assert container["command"] == ["/kueue"]
    assert container["args"] == ["--config=x"]


def test_kueue_manages_only_kinds_that_the_cluster_has() -> None:
    data = {"controller_manager_config.yaml": "integrations: {frameworks: [pod, ray.io/rayjob]}\n"}
    queues._configure(data, queues.KUEUE)
    config = yaml.safe_load(data["controller_manager_config.yaml"])
    assert config["integrations"]["frameworks"] == list(queues._MANAGED)


def test_what_would_come_from_the_network_is_left_out(tmp_path) -> None:
    file = tmp_path / "kustomization.yaml"
    file.write_text("resources: [namespace.yaml, ../../third-party/jobset]\n")
    queues._leave_out_what_is_elsewhere(file)
    assert yaml.safe_load(file.read_text()) == {"resources": ["namespace.yaml"]}

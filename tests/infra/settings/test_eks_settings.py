"""Every rule of an EKS stack refuses with one line: what, which rule, what to do."""

from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.settings.instances import DAEMONS_CPU, DAEMONS_MEMORY, INSTANCES
from infra.settings.network import NO_CONTROL_PLANE, ZONES, NetworkSettings, zone_prefix
from testkit.eks_factories import (
    EBS,
    EFA_GROUP,
    EFS,
    GPU_GROUP,
    GROUP,
    LUSTRE,
    graph,
    problems,
    settings,
)
from testkit.factories import REMOVED

CPU = "node_groups__training__cpu__"
W = "workloads__gpt__"
MANY = {"volume": EFS, "nodes": 2, "run": "x"}
FAR = {"url": "s3://far", "region": "eu-west-1"}
KEY = "arn:aws:kms:us-east-1:123456789012:key/x"
FAR_KEY = "arn:aws:kms:eu-west-1:123456789012:key/x"
ROLE = "arn:aws:iam::123456789012:role/x"
BLOCK = {**EFA_GROUP, "capacity": "capacity-block", "reservation_id": "cr-0123456789abcdef0",
         "scaling": {"min": 0, "desired": 0, "max": 2}}  # fmt: skip
CLOSED = {"nat": "none", "interface_endpoints": True}


def test_the_valid_settings_are_valid():
    assert problems() == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"aws__account": "1234"}, "aws.account: '1234' is not an AWS account: "
         "write its 12 digits in quotes"),
        ({"aws__region": "useast1"}, "aws.region: 'useast1' is not an AWS region: "
         "write one such as us-east-1"),
        ({"cluster__api_access": REMOVED}, "cluster.api_access: missing: give api_access "
         "(from where the API server can be reached)"),
        ({"cluster__api_access": {}}, "cluster.api_access: give exactly one of public_cidrs "
         "(your network's addresses) and runner: in-vpc"),
        ({"cluster__api_access": {"public_cidrs": ["0.0.0.0/0"]}},
         "cluster.api_access.public_cidrs.0: 0.0.0.0/0 opens the API server to 4,294,967,296 "
         "addresses: use your network's own range, /16 or narrower, or runner: in-vpc"),
        ({"cluster__api_access": {"public_cidrs": ["128.0.0.0/1"]}},
         "cluster.api_access.public_cidrs.0: 128.0.0.0/1 opens the API server to 2,147,483,648 "
         "addresses: use your network's own range, /16 or narrower, or runner: in-vpc"),
        ({"cluster__api_access": {"public_cidrs": ["::/0"]}},
         "cluster.api_access.public_cidrs.0: ::/0 is IPv6, which the endpoint does not filter by: "
         "use IPv4 ranges"),
        ({"cluster__api_access": {"public_cidrs": ["10.0.0.0/24"]}},
         "cluster.api_access.public_cidrs.0: 10.0.0.0/24 is private, which never reaches the "
         "public endpoint: use the address that your network has on the internet"),
        ({"cluster__version": "1.21"}, "cluster.version: '1.21' is not known: use one of "
         "1.35, 1.36"),
        ({"cluster__node_version": "1.36"}, "cluster: node_version 1.36 with version 1.35: nodes "
         "have the control plane's version or the one before: use 1.35, or leave it out"),
        ({f"{W}restart": "all-containers"}, "workloads.gpt.restart: all-containers needs "
         "Kubernetes 1.36, and the nodes have 1.35: use container, or upgrade the cluster and its "
         "nodes"),
        ({f"{W}restart": "all-containers", "cluster__version": "1.36",
          "cluster__node_version": "1.35"}, "workloads.gpt.restart: all-containers needs "
         "Kubernetes 1.36, and the nodes have 1.35: use container, or upgrade the cluster and its "
         "nodes"),
        ({"cluster__addons": {"coredns": "latest"}}, "cluster.addons: coredns 'latest' is not an "
         "add-on version: write one such as v1.14.3-eksbuild.3"),
        ({"cluster__access": {"me": {"principal": "arn:aws:sts::123456789012:assumed-role/a/b"}}},
         "cluster.access.me.principal: arn:aws:sts::123456789012:assumed-role/a/b is a session "
         "of a role: use the role's own ARN, arn:aws:iam::<account>:role/<name>"),
        ({"network__cidr": ""}, "network.cidr: '' is not an address range in CIDR notation: "
         "write one such as 10.0.0.0/16"),
        ({"network__cidr": "10.100.a.0/24"}, "network.cidr: '10.100.a.0/24' is not an address "
         "range in CIDR notation: write one such as 10.0.0.0/16"),
        ({"network__cidr": "8.8.0.0/16"}, "network.cidr: 8.8.0.0/16 is not private (RFC 1918: "
         "10/8, 172.16/12, 192.168/16): write one such as 10.0.0.0/16"),
        ({"network__cidr": "10.0.0.0/24"}, "network.cidr: 10.0.0.0/24 is too small: use a prefix "
         "from /16 to /21, such as 10.0.0.0/16"),
        ({"network__cidr": "172.20.0.0/16"}, "cluster.service_cidr: 172.20.0.0/16 overlaps "
         "network.cidr 172.20.0.0/16: use another, such as 10.100.0.0/16"),
        ({"network__zones": ["use1-az1", "use1-az2", "use1-az3"]}, "network.zones.2: EKS runs no "
         "control plane in use1-az3: use another zone of the region"),
        ({"network__zones": ["us-east-1a", "use1-az2", "use1-az4"]}, "network.zones.0: "
         "'us-east-1a' is not a zone ID: write one such as use1-az1 (zone names like us-east-1a "
         "mean another place in each account)"),
        ({"network__zones": ["use1-az1", "use1-az2"]}, "network.zones: use1-az1, use1-az2 are not "
         "three different zones: give three zone IDs"),
        ({"network__zones": ["usw2-az1", "usw2-az2", "usw2-az3"]}, "network.zones: usw2-az1 is "
         "not in us-east-1: use zone IDs such as use1-az1"),
        ({"aws__region": "us-west-1"}, "aws.region: us-west-1 has two zones for an account, and a "
         "stack needs three: use another region, such as us-west-2"),
        ({"aws__region": "sa-east-1"}, "network.zones: the zones of sa-east-1 are not known here: "
         "give three zone IDs such as sae1-az1"),
        ({"aws__region": "cn-north-1"}, "aws.region: cn-north-1 is in partition aws-cn, which is "
         "not supported: its endpoints, service principals and registries differ: use a region of "
         "partition aws, such as us-east-1"),
        ({"aws__region": "us-gov-west-1"}, "aws.region: us-gov-west-1 is in partition aws-us-gov, "
         "which is not supported: its endpoints, service principals and registries differ: use a "
         "region of partition aws, such as us-east-1"),
        ({"aws__region": "eusc-de-east-1"}, "aws.region: eusc-de-east-1 is in partition aws-eusc, "
         "which is not supported: its endpoints, service principals and registries differ: use a "
         "region of partition aws, such as us-east-1"),
        ({"cluster__access": {"a": {"principal": ROLE}, "b": {"principal": ROLE}}},
         f"cluster.access: b and a are both {ROLE}, of which EKS has one entry: give it one "
         "policy, or another role"),
        ({"network__cidr": "10.20.0.0/21", f"{CPU}scaling": {"min": 1, "desired": 2, "max": 20}},
         "node_groups: the groups may have 22 nodes in use1-az1, and its subnet 10.20.0.0/23 has "
         "addresses for 15 (33 each): lower scaling.max or elastic.max_nodes, or use a wider "
         "network.cidr"),
        ({f"{CPU}instance_types": ["trn1.32xlarge"]},
         "node_groups.training.cpu.instance_types.0: trn1.32xlarge has Trainium chips, for which "
         "PyTorch needs another build, image and device plugin: use an x86-64 type with NVIDIA "
         "GPUs, or none"),
        ({"node_groups__training__b": {**BLOCK, "scaling": {"min": 2, "desired": 2, "max": 2}}},
         "node_groups.training.b: capacity-block: scaling.min 2 asks for nodes before the block "
         "begins and after its end: set min to 0, and desired while it is active"),
        ({"node_groups__training__b": {**BLOCK, "placement_group": "close"}},
         "node_groups.training.b: placement_group with capacity-block: blocks are close together "
         "by themselves and are in no group: set placement_group to false"),
        ({f"{CPU}placement_group": ["close"]}, "node_groups.training.cpu.placement_group: "
         "['close'] is not a placement group: write true, false or a name"),
        ({"node_groups__training__b": {**BLOCK, "capacity": "reservation",
                                       "placement_group": True}},
         "node_groups.training.b: placement_group true with capacity reservation makes a group in "
         "which the reservation is not: name the group that the reservation was made in, or false"),
        ({f"{W}volume": {**EBS, "type": "io2", "size": "2Gi"}}, "workloads.gpt.volume: size 2Gi "
         "is not a size of io2: use whole GiB from 4Gi to 64Ti"),
        ({f"{W}volume": {**EBS, "iops": 90000}}, "workloads.gpt.volume: iops 90000 is not what "
         "gp3 has: use 3000 to 80000"),
        ({f"{W}volume": {**EBS, "type": "io2", "iops": 40000}}, "workloads.gpt.volume: iops 40000 "
         "is over 1000 for each GiB: use at most 20000"),
        ({f"{W}save_seconds": 1800, f"{W}termination_grace_seconds": 3600},
         "workloads.gpt: save_seconds + upload_seconds are 1800, and EKS deletes pods about 300 s "
         "after it began to drain a node group that is deleted or replaced: save faster, or say "
         "accept_forced_drain: true"),
        ({"network__nat": "none"}, "network.interface_endpoints: false with nat none leaves nodes "
         "no way to pull an image or join: set it to true, or nat to single"),
        ({f"{CPU}instance_types": ["t2.medium"]},
         "node_groups.training.cpu.instance_types.0: 't2.medium' is not known: "
         "add its figures to infra/settings/instances.py"),
        ({f"{CPU}instance_types": ["m7i.xlage"]},
         "node_groups.training.cpu.instance_types.0: 'm7i.xlage' is not known: "
         "did you mean m7i.xlarge? Else add its figures to infra/settings/instances.py"),
        ({f"{CPU}scaling": {"min": 2, "desired": 1, "max": 3}},
         "node_groups.training.cpu.scaling: desired 1 is not between min 2 and max 3: "
         "correct one of them"),
        ({f"{CPU}disk_size": "8Gi"}, "node_groups.training.cpu.disk_size: 8Gi is not whole GiB "
         "from 20Gi: use 20Gi or more"),
        ({f"{CPU}capacity": "spot"}, "node_groups: training.cpu is on spot and no other group is "
         "not: training stops whenever EC2 takes the nodes; add a group on demand, or say "
         "accept_interruptions: true"),
        ({f"{CPU}efa": True}, "node_groups.training.cpu: efa: m7i.xlarge has no network card for "
         "it: use one of g5.12xlarge, g5.48xlarge, g6.12xlarge, g6.48xlarge, g6e.12xlarge, "
         "g6e.48xlarge, g7e.8xlarge, g7e.12xlarge, g7e.24xlarge, g7e.48xlarge, p4d.24xlarge, "
         "p4de.24xlarge, p5.4xlarge, p5.48xlarge, p5e.48xlarge, p5en.48xlarge, p6-b200.48xlarge, "
         "p6-b300.48xlarge, or efa: false"),
        ({"node_groups__training__big": {**EFA_GROUP, "zone": None}},
         "node_groups.training.big: efa works within one zone: give zone, such as use1-az1"),
        ({"node_groups__training__big": {**EFA_GROUP, "capacity": "capacity-block"}},
         "node_groups.training.big: capacity capacity-block without reservation_id: give the one "
         "that you bought, cr-…"),
        ({f"{CPU}reservation_id": "cr-0123456789abcdef0"},
         "node_groups.training.cpu: reservation_id with capacity on-demand would not be used: "
         "set capacity to reservation or capacity-block"),
        ({"node_groups__training__g": {**GPU_GROUP, "zone": "use1-az1",
                                       "capacity": "capacity-block",
                                       "reservation_id": "cr-0123456789abcdef0"}},
         "node_groups.training.g: capacity-block: g5.12xlarge is not sold in blocks: "
         "use a p4, p5 or p6 type, or capacity: reservation"),
        ({f"{CPU}instance_types": ["m7i.xlarge", "g5.xlarge"]},
         "node_groups.training.cpu: instance_types m7i.xlarge, g5.xlarge differ in GPUs: "
         "make one group of each"),
        ({f"{CPU}zone": "use1-az6"}, "node_groups.training.cpu.zone: use1-az6 has no subnet: "
         "use one of use1-az1, use1-az2, use1-az4, or add it to network.zones"),
        ({"node_groups__system": {"scaling": {"min": 0, "desired": 0, "max": 1}}},
         "node_groups.system.scaling: min 0 would leave CoreDNS and Kanister no node: "
         "use at least 1"),
        ({f"{W}gpus_per_node": 1}, "workloads.gpt: no training group can hold it (cpu has 0 GPUs a "
         "node, 1 are asked for): use larger nodes, or ask for less"),
        ({f"{W}resources": {"cpu": "4"}}, "workloads.gpt: no training group can hold it (cpu has "
         "3.67 CPUs a node for pods, 4.25 are needed): use larger nodes, or ask for less"),
        ({f"{W}resources": {"memory": "16Gi"}}, "workloads.gpt: no training group can hold it (cpu "
         "has 13.5Gi a node for pods, 16.5Gi are needed): use larger nodes, or ask for less"),
        ({"workloads__gpt": {**MANY, "nodes": 9}}, "workloads.gpt: no training group can hold it "
         "(cpu has at most 3 nodes, 9 are asked for): use larger nodes, or ask for less"),
        ({f"{W}node_group": "gpu"}, "workloads.gpt.node_group: there is no training group gpu: "
         "use one of cpu"),
        ({f"{W}nodes": 2}, "workloads.gpt: volume 'ebs' cannot be shared by 2 nodes: use "
         "existing-claim, nfs, efs, fsx-lustre with access mode ReadWriteMany, or nodes: 1"),
        ({f"{CPU}zone": None}, "workloads.gpt.volume: ebs is mounted in its own zone only, and "
         "group cpu is in all zones: set node_groups.training.cpu.zone to use1-az1"),
        ({f"{W}volume": {**LUSTRE, "zone": "use1-az2"}}, "workloads.gpt.volume: use1-az2 is not "
         "the zone of group cpu, use1-az1: put both into one"),
        ({f"{W}volume": {**EBS, "throughput": 1000}}, "workloads.gpt.volume: throughput 1000 needs "
         "more operations than iops 3000: use iops 4000 or more"),
        ({f"{W}volume": {**LUSTRE, "size": "1Ti"}}, "workloads.gpt.volume: size 1Ti is not a "
         "size of FSx for Lustre: use 1200Gi or a multiple of 2400Gi"),
        ({f"{W}volume": {**LUSTRE, "export": "s3://exports"}}, "workloads.gpt.volume: backup_days "
         "7 with export: FSx backs up no file system that is linked to a bucket: set backup_days "
         "to 0, or leave export out"),
        ({f"{W}volume": {**LUSTRE, "export": "s3://test-backups/x", "backup_days": 0}},
         "workloads.gpt.volume.export: test-backups is the backup store: use another bucket, so "
         "that no export writes over backups"),
        ({f"{W}volume": {"kind": "host-path", "path": "/data", "node": "n"}},
         "workloads.gpt.volume: host-path dies with its node, and node groups replace nodes: "
         "use ebs, efs or fsx-lustre"),
        ({f"{W}volume": {"kind": "iscsi", "size": "1Ti", "portal": "10.0.0.1:3260",
                         "iqn": "iqn.2004-04.com.example:a"}},
         "workloads.gpt.volume: EKS node images have no iSCSI initiator: "
         "use ebs, or existing-claim with a CSI driver"),
        ({f"{CPU}capacity": "spot", f"{CPU}accept_interruptions": True, f"{W}save_seconds": 200},
         "workloads.gpt: save_seconds + upload_seconds are 200, and spot nodes go 120 s after EC2 "
         "says so: save faster, or use on-demand"),
        ({f"{W}save_seconds": 400}, "workloads.gpt: termination_grace_seconds 300 is less than "
         "save_seconds + upload_seconds: use at least 400"),
        ({"backup_store": {"volume": EFS}}, "backup_store.volume: a volume of the cluster's own "
         "goes with the cluster: use create, or existing"),
        ({"backup_store": {"existing": {**FAR, "region": "cn-north-1"}}},
         "backup_store.existing.region: cn-north-1 has accounts of its own, apart from those of "
         "us-east-1: use a bucket in a region such as us-east-1"),
        ({"backup_store": {"existing": FAR}, "network": CLOSED},
         "backup_store.existing.region: without a NAT gateway nodes reach buckets in us-east-1 "
         "only, not in eu-west-1: set network.nat to single, or use a bucket there"),
        ({"backup_store": {"existing": {**FAR, "key_arn": KEY}}},
         f"backup_store.existing.key_arn: {KEY} is not in the bucket's region eu-west-1, where S3 "
         "uses it: name the bucket's own key, or correct region"),
        ({"backup_store": {"existing": {"url": "s3://near", "key_arn": FAR_KEY}}},
         f"backup_store.existing.key_arn: {FAR_KEY} is not in the bucket's region us-east-1, "
         "where S3 uses it: name the bucket's own key, or correct region"),
        ({"aws__tags": {"aws:owner": "me"}}, "aws.tags.aws:owner.(key): 'aws:owner' contains "
         "'aws:', which is reserved: use another key"),
        ({"aws__tags": {"a,b": "me"}}, "aws.tags.a,b.(key): 'a,b' is not a tag's key: use at "
         "most 128 letters, digits, spaces and . : / + - @ _"),
        ({"aws__tags": {"owner": "me, you"}}, "aws.tags.owner: 'me, you' is not a tag's value: "
         "use at most 256 letters, digits, spaces and . : / = + - @ _"),
        ({"backup_store__create__name": "My_Bucket"}, "backup_store.create.name: 'My_Bucket' is "
         "not a bucket name: use 3 to 58 lower-case letters, digits and inner hyphens; it must be "
         "free in all of AWS"),
        ({"backup_store__create__object_lock": {"mode": "governance", "days": 365}},
         "backup_store.create: noncurrent_days 90 is less than object_lock.days 365, before which "
         "nothing can expire: use at least 365"),
        ({"images__tools": "registry/tools:1.0"}, "images.tools: registry/tools:1.0 is a tag, "
         "which can move: use name@sha256:<64 hex digits>, as the registry prints it after a push"),
        ({f"{W}gpus_per_node": 4, f"{W}ranks": 8}, "workloads.gpt: ranks 8 share 4 GPUs on each "
         "node: use ranks 4, one for each"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line_with_what_the_rule_and_the_remedy(
    changes: dict[str, Any], line: str
):
    assert problems(**changes) == [line]


@pytest.mark.parametrize(
    "store",
    [
        {**FAR, "key_arn": FAR_KEY},
        {"url": "s3://near", "key_arn": KEY},
        {"url": "s3://mine", "region": "garage", "endpoint": "https://s3.example"},
    ],
)
def test_a_bucket_that_nodes_can_reach_may_be_anywhere(store: dict[str, str]):
    assert problems(backup_store={"existing": store}) == []


def test_nodes_of_1_36_can_restart_all_containers_of_a_pod():
    assert problems(**{f"{W}restart": "all-containers", "cluster__version": "1.36"}) == []


def test_what_forced_drains_may_cost_can_be_accepted():
    slow = {f"{W}save_seconds": 1800, f"{W}termination_grace_seconds": 3600}

    assert problems(**slow, **{f"{W}accept_forced_drain": True}) == []


def test_versions_can_be_locked_for_as_long_as_s3_allows():
    lock = {"mode": "governance", "days": 36500}

    assert problems(
        backup_store__create__object_lock=lock, backup_store__create__noncurrent_days=36500
    ) == []  # fmt: skip


def test_io2_is_as_fast_for_its_size_as_ebs_makes_it():
    volume = {**EBS, "type": "io2", "size": "50Gi", "iops": 40000}

    assert problems(workloads__gpt__volume=volume) == []


def test_a_node_also_holds_its_daemons_and_the_backup():
    """A p5.48xlarge has 192 cores; kubelet, DaemonSets and the backup's pod leave less than 191."""
    nodes = {"fast": {**EFA_GROUP, "scaling": {"min": 0, "desired": 0, "max": 2}}}
    wanted = {"volume": LUSTRE, "run": "x", "gpus_per_node": 8, "node_group": "fast"}

    def line(cpu: str, memory: str) -> list[str]:
        return problems(
            node_groups__training=nodes,
            workloads={"gpt": {**wanted, "resources": {"cpu": cpu, "memory": memory}}},
        )

    assert line("190", "1800Gi") == []
    assert "has 191.2 CPUs a node for pods, 191.25 are needed" in line("191", "1800Gi")[0]
    assert "has 1892.7Gi a node for pods, 1900.5Gi are needed" in line("190", "1900Gi")[0]


def test_what_a_node_can_hold_is_what_karpenter_says_less_the_daemons():
    """karpenter-provider-aws, website/content/en/preview/reference/instance-types.md."""
    allocatable = {  # cores, MiB
        "m7i.large": (1.93, 6903),
        "m7i.xlarge": (3.92, 14162),
        "g5.12xlarge": (47.81, 173400),
        "p5.48xlarge": (191.45, 1938410),
        "p6-b300.48xlarge": (191.45, 3877198),
    }
    for name, (cores, memory) in allocatable.items():
        facts = INSTANCES[name]
        assert facts.allocatable_cpu == pytest.approx(cores - DAEMONS_CPU, abs=0.006), name
        assert facts.allocatable_memory // 2**20 == pytest.approx(memory - DAEMONS_MEMORY, abs=1)


def test_spot_beside_a_group_on_demand_needs_no_further_word():
    spot = {**GROUP, "capacity": "spot"}

    assert problems(node_groups__training__spare=spot) == []


def test_a_workload_runs_on_the_first_group_that_can_hold_it():
    groups = {"cpu": GROUP, "gpu": {**GPU_GROUP, "zone": "use1-az1"}}
    found = settings(node_groups__training=groups, workloads__gpt__gpus_per_node=4)

    assert found.group_of("gpt") == "gpu"
    assert settings(node_groups__training=groups).group_of("gpt") == "cpu"


def test_without_images_all_but_the_pods_is_declared():
    """The first of two steps: the registry must be there before an image can be pushed."""
    first = graph(images=REMOVED)

    assert first.find("Repository", "holdfast/tools")
    assert first.find("aws:eks/nodeGroup:NodeGroup")
    assert first.find("Job") == first.find("CronJob") == first.find("Release") == []
    assert "training_job_name" not in first.outputs
    assert first.outputs["repositories"].keys() == {"holdfast/tools", "holdfast/training"}


@pytest.mark.parametrize("region", sorted(ZONES))
def test_the_zones_of_each_known_region_are_its_own_and_run_control_planes(region: str):
    assert len(set(ZONES[region])) == 3
    for zone in ZONES[region]:
        assert zone.startswith(zone_prefix(region))
        assert zone not in NO_CONTROL_PLANE


@given(
    st.sampled_from(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]),
    st.integers(16, 21),
    st.integers(0, 2**16),
)
def test_subnets_lie_in_the_vpc_and_never_overlap_whatever_its_range(
    block: str, prefix: int, number: int
):
    whole = IPv4Network(block)
    count = 2 ** (prefix - whole.prefixlen)
    size = 2 ** (32 - prefix)
    vpc = IPv4Network((int(whole.network_address) + number % count * size, prefix))
    network = NetworkSettings(cidr=str(vpc))
    subnets = [*network.private_ranges(), *network.public_ranges()]

    assert len(subnets) == 6
    assert all(subnet.subnet_of(vpc) for subnet in subnets)
    assert all(not a.overlaps(b) for a in subnets for b in subnets if a is not b)
    assert all(subnet.prefixlen <= 28 for subnet in subnets)

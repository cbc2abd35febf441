"""Deployment files: they parse, run each node once by `fabric node NAME`, and systemd itself finds no fault in them."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabric import deployment, topology
from fabric.deployment import STATE
from fabric.topology import Topology

ROOT = Path(__file__).parents[2]
DEFAULT = topology.load(ROOT / "topology.yaml", {})
HOSTS = """
hosts:
  core: {address: fabric-core, bind: "*", allow_insecure: true}
  edge: {address: 10.0.0.6, bind: "*", allow_insecure: true}
venues: {V: {}}
feeds: {iex: {wire: iex-tops-1.6, venues: V, lines: ["udp://239.1.2.3:5490"]}}
processors: {nb_bo: {run: "nodes.nbbo:main", reads: [quote], publishes: [nbbo]}}
gateways: {web: {port: 8080, host: edge, processes: 2}}
"""


@pytest.fixture(name="hosts")
def two_hosts(tmp_path: Path) -> Topology:
    file = tmp_path / "market.yaml"
    file.write_text(HOSTS)
    return topology.load(file, {})


def compose(found: Topology, host: str = "") -> dict[str, Any]:
    return yaml.safe_load(deployment.render("compose", found, host)["compose.yaml"])["services"]


def kubernetes(found: Topology, kind: str) -> list[dict[str, Any]]:
    documents = yaml.safe_load_all(deployment.render("kubernetes", found)["fabric.yaml"])
    return [document for document in documents if document["kind"] == kind]


def test_compose_runs_each_node_after_the_kernels_and_those_that_it_reads() -> None:
    services = compose(DEFAULT)
    first = services.pop("fabric.kernels")
    assert "COPY . ." in first["build"]["dockerfile_inline"]
    assert list(services) == [node.name for node in DEFAULT.nodes]
    for name, service in services.items():
        assert service["command"] == ["node", name, f"{STATE}/topology.yaml"]
        assert service["network_mode"] == "host"
        assert service["depends_on"]["fabric.kernels"] == {"condition": "service_completed_successfully"}
        assert set(service["depends_on"]) <= {"fabric.kernels", *services}
    assert set(services["nbbo-1"]["depends_on"]) == {"fabric.kernels", "nyse", "nasdaq", "bzx", "iex"}


def test_files_of_a_host_hold_its_nodes_only(hosts: Topology) -> None:
    assert list(compose(hosts, "edge")) == ["fabric.kernels", "web-1", "web-2"]
    units = deployment.render("systemd", hosts, "core")
    assert set(units) == {"fabric.target", "fabric.kernels.service"} | {
        f"fabric-{name}.service" for name in ("redis", "iex", "nb_bo", "redis-writer")
    }


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    """A mistyped setting is a complaint of systemd's: tried here, so that silence means something."""
    for name, text in deployment.render("systemd", DEFAULT, user="root").items():
        (tmp_path / name).write_text(text)
    verify = ["systemd-analyze", "verify", *sorted(map(str, tmp_path.iterdir()))]
    assert subprocess.run(verify, capture_output=True, text=True, check=True).stderr == ""
    unit = tmp_path / "fabric-web.service"
    unit.write_text(unit.read_text().replace("RestartSec", "RestartSecs"))
    assert "RestartSecs" in subprocess.run(verify, capture_output=True, text=True, check=False).stderr


def test_units_survive_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "50% of $HOME's"
    folder.mkdir()
    file = folder / "t.yaml"
    file.write_text(HOSTS)
    unit = deployment.render("systemd", topology.load(file, {}), "edge")["fabric-web-1.service"]
    (command,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert command.endswith(f"""fabric node web-1 '{tmp_path}/50%% of $$HOME'"'"'s/t.yaml'""")
    assert f"WorkingDirectory={tmp_path}/50%% of $HOME's" in unit


def test_a_host_is_a_pod_in_kubernetes(hosts: Topology) -> None:
    core, edge = kubernetes(hosts, "StatefulSet")
    pod = core["spec"]["template"]["spec"]
    assert [container["name"] for container in pod["containers"]] == ["redis", "iex", "nb-bo", "redis-writer"]
    assert pod["containers"][2]["args"] == ["node", "nb_bo", f"{STATE}/market.yaml"]
    assert pod["hostNetwork"]  # a multicast line
    assert not edge["spec"]["template"]["spec"]["hostNetwork"]
    web = edge["spec"]["template"]["spec"]["containers"][0]
    assert web["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8080}
    names = [(service["metadata"]["name"], service["spec"].get("ports")) for service in kubernetes(hosts, "Service")]
    assert names == [("fabric-core", None), ("fabric-edge", [{"name": "http-8080", "port": 8080}])]
    (config,) = kubernetes(hosts, "ConfigMap")
    assert config["data"] == {"market.yaml": HOSTS}


def test_a_pod_has_room_for_its_logs_and_asks_a_gateway_on_loopback_from_inside() -> None:
    (found,) = kubernetes(DEFAULT, "StatefulSet")
    (claim,) = found["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "9Gi"  # 10 x 512 MB and 4 GB
    (web,) = (c for c in found["spec"]["template"]["spec"]["containers"] if c["name"] == "web")
    assert "http://127.0.0.1:8080/readyz" in web["readinessProbe"]["exec"]["command"][-1]


def test_bounds_are_those_of_the_topology() -> None:
    limits = replace(DEFAULT.limits, drain_ns=7_500_000_000, clients_max=1_000)
    found = replace(DEFAULT, limits=limits)
    assert compose(found)["web"]["stop_grace_period"] == "13s"
    unit = deployment.render("systemd", found)["fabric-web.service"]
    assert "TimeoutStopSec=13\nLimitNOFILE=1512\n" in unit

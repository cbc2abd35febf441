"""Deployment files from a topology: one `fabric node NAME` a node, for systemd, Docker Compose and Kubernetes.

The files add nothing to what runs, they say it in another language: addresses, ports and bounds stay those of the
topology, which every node reads. So nodes of one host share its network (Compose: the machine's own; Kubernetes: a pod
for each host) and its folder, where epochs, logs and the tables of limits stand, as they do under `fabric up`. Whoever
runs the nodes restarts them. Kernels are compiled before the first of them starts, so that not each does it.
"""

import ipaddress
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import fabric
from fabric.clock import SECOND_NS
from fabric.compiled import ROOT
from fabric.launcher import needs
from fabric.machine import DESCRIPTORS_BESIDE_CLIENTS
from fabric.topology import FeedSettings, GatewaySettings, NodeSpec, Topology

FORMS = ("compose", "systemd", "kubernetes")
IMAGE = f"fabric:{fabric.__version__}"
STATE = "/var/lib/fabric"
"""In a container: where the topology file stands, and beside it `.fabric`."""
_CODE = "/opt/fabric"
_COMMAND = f"{_CODE}/.venv/bin/fabric"
_PYTHON = f"{_CODE}/.venv/bin/python"
_KERNELS = "fabric.kernels"
"""The step before all nodes: no node has a dot in its name."""
_STOP_SLACK_S = 5
"""From the end of a node's own drain until it is killed from outside."""
_VOLUME_SPARE_BYTES = 4 << 30
"""Beside the durable logs: kernels, history, what the nodes print."""

Document = dict[str, Any]

DOCKERFILE = f"""\
FROM python:3.11-slim-bookworm
WORKDIR {_CODE}
COPY . .
RUN python3 -m fabric --version
ENV FABRIC_KERNEL_CACHE={STATE}/.fabric/kernels
ENTRYPOINT ["{_COMMAND}"]
"""
"""The image, from a clone. Kernels are not in it: machine code is for the processor that it was compiled on."""


def render(form: str, topology: Topology, host: str = "", user: str = "fabric") -> dict[str, str]:
    """The files of one form, name -> text. ``host``: the nodes of that machine (empty: of the only one).

    ``user`` is who runs the systemd units. Kubernetes' files are of all hosts, a pod for each.
    """
    nodes = [node for node in topology.nodes if not host or node.host == host]
    if form == "compose":
        return _compose(topology, nodes)
    if form == "systemd":
        return _systemd(topology, nodes, user)
    return _kubernetes(topology)


def _head(topology: Topology, form: str, *lines: str) -> str:
    made = f"Made by `fabric render {form}` of {Path(topology.path).name}: change that and render again."
    return "".join(f"# {line}\n" for line in (made, *lines))


class _Dumper(yaml.SafeDumper):
    """Plain YAML: what is shared is written out, texts of several lines stand as they are."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def _dumped(*documents: Document) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120)


def _stop_s(topology: Topology) -> int:
    return -(-topology.limits.drain_ns // SECOND_NS) + _STOP_SLACK_S


def _files(topology: Topology) -> int:
    """Open files that a gateway at its bound needs."""
    return topology.limits.clients_max + DESCRIPTORS_BESIDE_CLIENTS


def _starts_after(node: NodeSpec, topology: Topology, nodes: Sequence[NodeSpec]) -> list[str]:
    here = {other.name for other in nodes}
    return [name for name in needs(node, topology) if name in here]


def _compose(topology: Topology, nodes: Sequence[NodeSpec]) -> dict[str, str]:
    file = f"{STATE}/{Path(topology.path).name}"
    common: Document = {
        "image": IMAGE,
        "network_mode": "host",
        "volumes": [f".:{STATE}"],
        "working_dir": STATE,
        "stop_grace_period": f"{_stop_s(topology)}s",
        "ulimits": {"nofile": _files(topology)},
        "init": True,
    }
    kernels = {**common, "build": {"context": str(ROOT), "dockerfile_inline": DOCKERFILE}}
    kernels |= {"entrypoint": [_PYTHON, "-m", "fabric.kernels"], "restart": "no"}
    services: Document = {_KERNELS: kernels}
    for node in nodes:
        after = {name: {"condition": "service_started"} for name in _starts_after(node, topology, nodes)}
        services[node.name] = {
            **common,
            "command": ["node", node.name, file],
            "restart": "always",
            "depends_on": {_KERNELS: {"condition": "service_completed_successfully"}, **after},
        }
    head = _head(
        topology, "compose",
        "It stands beside the topology file, whose folder the containers share: `docker compose up --build`.",
        "All are on the machine's own network, where the addresses of the topology are.",
    )  # fmt: skip
    return {"compose.yaml": head + _dumped({"name": "fabric", "services": services})}


def _systemd(topology: Topology, nodes: Sequence[NodeSpec], user: str) -> dict[str, str]:
    file = Path(topology.path).resolve()
    home = ROOT / ".venv" / "bin"
    limits = topology.limits
    head = _head(
        topology, "systemd",
        "Copy the units to /etc/systemd/system, then `systemctl daemon-reload && systemctl start fabric.target`.",
        f"The user {user} must be able to write to {file.parent}.",
    )  # fmt: skip
    shared = {
        "User": user,
        "WorkingDirectory": _specifier(str(file.parent)),
        "NoNewPrivileges": "yes",
        "ProtectSystem": "full",
    }
    units = {
        "fabric.target": _ini(
            Unit={"Description": "Market data fabric", "Wants": " ".join(_unit(node.name) for node in nodes)},
            Install={"WantedBy": "multi-user.target"},
        ),
        f"{_KERNELS}.service": _ini(
            Unit={"Description": "Market data fabric: compiled kernels"},
            Service={
                "Type": "oneshot",
                "ExecStart": _quoted(home / "python", "-m", "fabric.kernels"),
                **shared,
                "RemainAfterExit": "yes",
                "TimeoutStartSec": "infinity",
            },
        ),
    }
    for node in nodes:
        after = map(_unit, _starts_after(node, topology, nodes))
        units[_unit(node.name)] = _ini(
            Unit={
                "Description": f"Market data fabric: {node.name} ({node.role})",
                "PartOf": "fabric.target",
                "Requires": f"{_KERNELS}.service",
                "Wants": "network-online.target",
                "After": " ".join(("network-online.target", f"{_KERNELS}.service", *after)),
                "StartLimitIntervalSec": limits.restart_window_ns // SECOND_NS,
                "StartLimitBurst": limits.restarts_max,
            },
            Service={
                "Type": "exec",
                "ExecStart": _quoted(home / "fabric", "node", node.name, file),
                **shared,
                "Restart": "always",
                "RestartSec": "100ms",
                "TimeoutStopSec": _stop_s(topology),
                "LimitNOFILE": _files(topology),
            },
        )
    return {name: head + text for name, text in units.items()}


def _ini(**sections: Mapping[str, object]) -> str:
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in section.items())
        for name, section in sections.items()
    )


def _unit(name: str) -> str:
    return f"fabric-{name}.service"


def _quoted(*words: object) -> str:
    """A command line as systemd reads it: quotes as in a shell, `%` and `$` doubled."""
    return _specifier(shlex.join(map(str, words)).replace("$", "$$"))


def _specifier(text: str) -> str:
    return text.replace("%", "%%")


def _kubernetes(topology: Topology) -> dict[str, str]:
    path = Path(topology.path)
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "fabric-topology"},
        "data": {path.name: path.read_text()},
    }
    documents: list[Document] = [config]
    for host, address in topology.hosts:
        nodes = [node for node in topology.nodes if node.host == host]
        if nodes:
            documents += _pod_of_host(topology, host, address, nodes)
    head = _head(
        topology, "kubernetes",
        f"The image is built from a clone (`fabric render compose` shows the Dockerfile) and called {IMAGE}.",
        "A host of the topology is a pod, its nodes are containers that share its network and its volume.",
        "Files with keys that the topology names belong into the volume, with mode 0600.",
    )  # fmt: skip
    return {"fabric.yaml": head + _dumped(*documents)}


def _pod_of_host(topology: Topology, host: str, address: str, nodes: Sequence[NodeSpec]) -> list[Document]:
    """A host as a StatefulSet of one pod, and the Service that gives it its name, and its gateways their ports."""
    name, labels = _label(f"fabric-{host}"), {"app": "fabric", "host": _label(host)}
    file = Path(topology.path).name
    common: Document = {
        "image": IMAGE,
        "workingDir": STATE,
        "volumeMounts": [
            {"name": "state", "mountPath": STATE},
            {"name": "topology", "mountPath": f"{STATE}/{file}", "subPath": file},
        ],
    }
    containers = [
        {"name": _label(node.name), **common, "args": ["node", node.name, f"{STATE}/{file}"], **_probes(node)}
        for node in nodes
    ]
    pod: Document = {
        "hostNetwork": any(_is_multicast(node) for node in nodes),
        "terminationGracePeriodSeconds": _stop_s(topology),
        "initContainers": [{"name": "fabric", **common, "command": [_PYTHON, "-m", "fabric.kernels"]}],
        "containers": containers,
        "volumes": [{"name": "topology", "configMap": {"name": "fabric-topology"}}],
    }
    logs = sum(
        node.publishes.journal.bytes_max for node in nodes if node.publishes is not None and node.publishes.journal
    )
    claim = {
        "metadata": {"name": "state"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": f"{-(-(logs + _VOLUME_SPARE_BYTES) >> 30)}Gi"}},
        },
    }
    stateful = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "serviceName": name,
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
            "volumeClaimTemplates": [claim],
        },
    }
    ports = {
        node.settings.port
        for node in nodes
        if isinstance(node.settings, GatewaySettings) and not _is_loopback(node.settings.host)
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name if _is_ip(address) else address, "labels": labels},
        "spec": {
            "selector": labels,
            "publishNotReadyAddresses": True,  # the bus finds its peers before they are ready
            **({"ports": [{"name": f"http-{port}", "port": port} for port in sorted(ports)]} if ports else {}),
            "clusterIP": "None",
        },
    }
    return [service, stateful]


def _label(name: str) -> str:
    """As Kubernetes wants names (RFC 1123): ours may hold underscores."""
    return name.lower().replace("_", "-")


def _probes(node: NodeSpec) -> Document:
    """A gateway is asked over HTTP; on loopback from inside, since the kubelet comes from outside."""
    if not isinstance(node.settings, GatewaySettings):
        return {}
    host, port = node.settings.host, node.settings.port

    def probe(path: str, failures: int) -> Document:
        if not _is_loopback(host):
            how: Document = {"httpGet": {"path": path, "port": port}}
        else:
            at = f"[{host}]" if ":" in host else host
            program = f"import urllib.request; urllib.request.urlopen('http://{at}:{port}{path}', timeout=2)"
            how = {"exec": {"command": [_PYTHON, "-c", program]}}
        return {**how, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": failures}

    return {"readinessProbe": probe("/readyz", 1), "livenessProbe": probe("/livez", 6)}


def _is_multicast(node: NodeSpec) -> bool:
    """Whether a feed joins groups, which no pod's own network carries."""
    settings = node.settings
    return isinstance(settings, FeedSettings) and any(
        _is_ip(host) and ipaddress.ip_address(host).is_multicast for host, _ in settings.lines
    )


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return _is_ip(host) and ipaddress.ip_address(host).is_loopback

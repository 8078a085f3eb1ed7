"""docs/cluster.md holds: its YAML and JSON parse, its scripts are scripts, its commands have their options."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from soft2hard.cli import app
from soft2hard.workers.cluster import Cluster, Layout, Node, layout_of
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def soft2hard_commands() -> list[list[str]]:
    """The arguments of every whole soft2hard command on the page, wherever it stands."""
    lines = PAGE.replace("`", "\n").splitlines()
    found = [re.search(r"(?:^|[\s:])soft2hard (tune|train|evaluate|run) (.*-o .*)", line) for line in lines]
    return [[match[1], *shlex.split(match[2])] for match in found if match]


def test_there_are_blocks_and_commands_of_every_kind() -> None:
    assert {language for language, _ in BLOCKS} == {"console", "bash", "yaml", "json"}
    assert {command[0] for command in soft2hard_commands()} == {"tune", "train", "evaluate", "run"}
    assert len(soft2hard_commands()) >= 10


@pytest.mark.parametrize("command", soft2hard_commands(), ids=" ".join)
def test_every_command_has_the_options_that_it_is_given(command: list[str]) -> None:
    _, bound, _ = app.parse_args(command)
    assert bound.arguments["output"] is not None


@pytest.mark.parametrize("text", blocks("json"))
def test_deepspeed_configurations_parse(text: str) -> None:
    assert json.loads(text)["zero_optimization"]["stage"] in (1, 2, 3)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_the_manifest_is_a_ray_job_whose_pods_share_a_volume(text: str) -> None:
    manifest = yaml.safe_load(text)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    cluster = manifest["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"]["template"]["spec"], cluster["workerGroupSpecs"][0]["template"]["spec"]]
    folder = shlex.split(manifest["spec"]["entrypoint"])
    output = Path(folder[folder.index("-o") + 1])
    for pod in pods:
        (mount,) = pod["containers"][0]["volumeMounts"]
        assert mount["name"] in {volume["name"] for volume in pod["volumes"]}
        assert output.is_relative_to(mount["mountPath"])
    workers = cluster["workerGroupSpecs"][0]
    gpus = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    asked = int(folder[folder.index("--cluster-workers") + 1])
    head = cluster["headGroupSpec"]
    nodes = [Node(_cores(pods[0]), int(head["rayStartParams"]["num-gpus"]))]
    nodes += [Node(_cores(pods[1]), gpus)] * workers["replicas"]
    assert layout_of(Cluster("auto", asked), nodes) == Layout(asked, _cores(pods[1]) // gpus, 1, room=asked)


def _cores(pod: dict) -> int:
    return int(pod["containers"][0]["resources"]["limits"]["cpu"])


@pytest.mark.parametrize("text", blocks("bash"))
def test_the_workers_of_the_job_script_fill_its_machines_and_wait_for_those_that_join_late(text: str) -> None:
    given = {name: int(re.search(rf"#SBATCH --{name}=(\d+)", text)[1]) for name in ("nodes", "gpus-per-node")}
    node = Node(*(int(re.search(rf"--num-{kind}=(\d+)", text)[1]) for kind in ("cpus", "gpus")))
    (asked,) = {int(n) for n in re.findall(r"--cluster-workers (\d+)", text)}
    assert node.gpus == given["gpus-per-node"] and asked == given["nodes"] * node.gpus
    first, all_ = (layout_of(Cluster("head:6379", asked), [node] * n) for n in (1, given["nodes"]))
    assert (first.workers, first.cores, first.gpus) == (all_.workers, all_.cores, all_.gpus) and all_.room == asked


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("text", blocks("bash"))
def test_the_job_script_is_a_script(text: str) -> None:
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_configurations_by_name_are_those_of_the_page() -> None:
    from soft2hard.translator.processes import NAMED

    assert tuple(re.findall(r"^\| `(zero[^`]*)` \|", PAGE, flags=re.MULTILINE)) == NAMED

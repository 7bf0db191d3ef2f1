"""docs/scale.md: its templates can be parsed, its commands exist, and its arithmetic is right."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from finetune.command_line.arguments import parser

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|yaml)\n(.*?)```", PAGE, re.S)
DATA = [yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml"]
SCRIPTS = [*(text for kind, text in BLOCKS if kind == "bash"), *(data["run"] for data in DATA if "run" in data)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_shell_reads_every_template(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_is_one_that_the_program_takes() -> None:
    found = 0
    for line in "\n".join(SCRIPTS).replace("\\\n", " ").replace("$WHAT", "resume /shared/model").splitlines():
        for command in re.findall(r"finetune-cli ([^#'\n]+)", line):
            numbers = re.sub(r'"\$\w*(?:RANK|NODEID)"', "1", re.sub(r'"\$\w*NODES"', "2", command))
            parser().parse_args(shlex.split(numbers))
            found += 1
    assert found >= 9


def test_the_templates_of_several_nodes_give_all_that_a_node_needs() -> None:
    for script in SCRIPTS:
        if "--nodes" in script:
            assert "--node-rank" in script
            assert "--rdzv" in script


def test_every_pod_of_a_ray_cluster_has_a_gpu_the_same_image_and_the_shared_disk() -> None:
    (cluster,) = (data["spec"] for data in DATA if data.get("kind") == "RayCluster")
    groups = [(1, cluster["headGroupSpec"]), *((each["replicas"], each) for each in cluster["workerGroupSpecs"])]
    gpus, images = 0, set()
    for pods, group in groups:
        pod = group["template"]["spec"]
        (container,), (volume,) = pod["containers"], pod["volumes"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/shared"}]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        gpus += pods * int(container["resources"]["limits"]["nvidia.com/gpu"])
        images.add(container["image"])
    assert len(images) == 1
    assert f'kubectl exec "$HEAD" -- finetune-cli run /shared/recipe.yaml --output-dir /shared/model --on ray --nproc {gpus}\n' in PAGE


def test_the_cost_of_the_exchange_is_what_the_formula_says() -> None:
    rows = re.findall(r"\(([\d,.]+) M\) \| ([\d,]+) MB \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", PAGE)
    assert len(rows) == 4
    for weights, megabytes, nvlink, infiniband, ethernet in rows:
        sent = 4e6 * float(weights.replace(",", ""))
        assert float(megabytes.replace(",", "")) == round(sent / 1e6)
        times = [2 * 7 / 8 * sent / 450e9, 2 * 63 / 64 * sent / 50e9, 2 * 7 / 8 * sent / 12.5e9]
        assert [float(nvlink), float(infiniband), float(ethernet)] == [round(1000 * seconds, 1) for seconds in times]
    work = [6 * 1.236e9 * tokens / 400e12 for tokens in (2048, 16384)]
    assert [round(1000 * seconds) for seconds in work] == [38, 304]

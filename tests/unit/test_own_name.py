"""The distribution has a name of its own, and its version is not asked of whatever else is installed as `finetune-cli`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import finetune

ROOT = Path(__file__).parents[2]
ASK = """
from finetune.cli import main
from finetune.run.records import versions
from importlib.metadata import version
main(["--version"])
print(versions()["finetune-cli"], version("finetune-cli"))
"""


def test_the_distribution_is_not_called_as_another_project_is() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'^name = "(.+?)"', project, re.MULTILINE)[0] == "finetune-wizard"
    assert '\nfinetune-cli = "finetune.cli:main"\n' in project, "the command keeps its name"


def test_another_project_of_the_commands_name_does_not_lend_its_version(tmp_path: Path) -> None:
    foreign = tmp_path / "finetune_cli-0.8.0.dist-info"
    foreign.mkdir()
    (foreign / "METADATA").write_text("Metadata-Version: 2.1\nName: finetune-cli\nVersion: 0.8.0\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run([sys.executable, "-c", ASK], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    ours = finetune.__version__
    assert done.stdout == f"finetune-cli {ours}\n{ours} 0.8.0\n"

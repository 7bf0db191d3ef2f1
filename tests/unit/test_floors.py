"""The lowest versions in pyproject.toml: each has a reason, `.ci/lowest` takes exactly them, and what is installed is no older."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LISTED = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
assert LISTED
LINES = [line for line in LISTED[1].splitlines() if line.startswith('  "')]
REQUIREMENTS = [Requirement(line.split('"')[1]) for line in LINES]
# Below these, something that a stranger sends can run code, reach other files or fill the memory.
ADVISORIES = {"torch": "2.10", "transformers": "5.3", "jinja2": "3.1.6", "filelock": "3.20.3", "pyarrow": "23.0.1", "pyyaml": "6.0.4"}


def floor(requirement: Requirement) -> str:
    return next(part.version for part in requirement.specifier if part.operator == ">=")


def test_every_dependency_has_a_floor_and_a_reason() -> None:
    assert len(REQUIREMENTS) == LISTED[1].count(">=")  # type: ignore[index]
    for line, requirement in zip(LINES, REQUIREMENTS, strict=True):
        assert floor(requirement)
        assert len(line.partition("#")[2].split()) >= 2, line


@pytest.mark.parametrize("name", ADVISORIES)
def test_no_floor_is_below_an_advisory(name: str) -> None:
    requirement = next(each for each in REQUIREMENTS if each.name == name)
    assert Version(floor(requirement)) >= Version(ADVISORIES[name])


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_what_is_installed_is_allowed(requirement: Requirement) -> None:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        pytest.skip(f"{requirement.name} is not installed")
    assert requirement.specifier.contains(installed, prereleases=True)


@pytest.mark.skipif(sys.platform == "win32", reason="a script for bash")
def test_the_lowest_versions_are_those_of_the_project() -> None:
    done = subprocess.run(["bash", str(ROOT / ".ci" / "lowest"), "--list"], capture_output=True, text=True, timeout=60, check=True)
    pinned = [Requirement(line) for line in done.stdout.splitlines()]
    assert [(pin.name, str(pin.specifier), pin.marker) for pin in pinned] == [
        (each.name, f"=={floor(each)}", each.marker) for each in REQUIREMENTS
    ]

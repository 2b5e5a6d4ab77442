"""The package's metadata: files that say the same thing agree. No wheel is built here, as that takes too long."""

import re
import runpy
from pathlib import Path
from unittest import mock

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


@pytest.fixture(scope="module")
def metadata():
    """Keyword arguments that setup.py passes."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return setup.call_args.kwargs


def jobs():
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]


def pins(python):
    """The lines of constraints.txt that apply to a version of Python."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    requirements = [Requirement(line) for line in lines]
    return [pin for pin in requirements if pin.marker is None or pin.marker.evaluate({"python_version": python})]


def test_one_version_everywhere(metadata):
    version = (ROOT / "sb3_snd" / "version.txt").read_text().strip()
    changelog = re.findall(r"^## Release (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert metadata["version"] == version
    assert changelog[0] == (str(citation["version"]), str(citation["date-released"])) and changelog[0][0] == version


def test_pythons_of_classifiers_requirement_and_workflow(metadata):
    prefix = "Programming Language :: Python :: "
    names = [name.removeprefix(prefix) for name in metadata["classifiers"] if name.startswith(prefix)]
    assert [name for name in names if "." in name] == PYTHONS
    allowed = SpecifierSet(metadata["python_requires"])
    assert next(minor for minor in range(20) if f"3.{minor}" in allowed) == 10
    rows = jobs()["tests"]["strategy"]["matrix"]["include"]
    assert [row["python"] for row in rows if row["name"] == row["python"]] == PYTHONS


def test_oldest_versions_are_those_of_the_ranges(metadata):
    (row,) = (row for row in jobs()["tests"]["strategy"]["matrix"]["include"] if row["name"] == "oldest")
    oldest = {canonicalize_name(pin.name): pin.specifier for pin in map(Requirement, row["versions"].split())}
    assert row["python"] == PYTHONS[0]
    for requirement in map(Requirement, metadata["install_requires"]):
        (lower,) = (bound.version for bound in requirement.specifier if bound.operator == ">=")
        (pinned,) = oldest[canonicalize_name(requirement.name)]
        assert pinned.operator == "==" and pinned.version.removesuffix(".0") == lower


@pytest.mark.parametrize(
    "python, engines", zip(PYTHONS, (["procgen"], ["procgen-mirror"], ["procgen-mirror"], []), strict=True)
)
def test_procgen_comes_where_it_has_a_wheel(metadata, python, engines):
    for extra in ("procgen", "all"):
        wanted = map(Requirement, metadata["extras_require"][extra])
        found = [one.name for one in wanted if one.marker is None or one.marker.evaluate({"python_version": python})]
        assert [name for name in found if name.startswith("procgen")] == engines


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_name_one_version_within_the_ranges(metadata, python):
    pinned = {canonicalize_name(pin.name): pin for pin in pins(python)}
    assert len(pinned) == len(pins(python))
    for line in [*metadata["install_requires"], *(line for extra in metadata["extras_require"].values() for line in extra)]:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"python_version": python}):
            (pin,) = pinned[canonicalize_name(wanted.name)].specifier
            assert pin.version in wanted.specifier, line


def test_links_of_the_index_lead_somewhere(metadata):
    """It shows the README without the repository's folders."""
    text = metadata["long_description"]
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    assert targets and all(re.match(r"https?://|mailto:|#", target) for target in targets)
    ours = [re.fullmatch(rf"{metadata['url']}/(?:raw|blob)/v[\d.]+/([^#]+)(?:#.*)?", target) for target in targets]
    paths = [match[1] for match in ours if match]
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []


def test_workflows_ask_for_few_permissions_and_fixed_major_versions():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] in ({}, {"contents": "read"}), path
        for job in workflow["jobs"].values():
            used = [step["uses"] for step in job.get("steps", []) if "uses" in step]
            assert all(re.search(r"@(release/)?v\d+$", action) for action in used), path

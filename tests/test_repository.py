"""The files around the code say what is true: workflows name sessions that exist, the changelog can be assembled."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def sessions() -> set[str]:
    """The names of the noxfile's functions with a session decorator."""
    text = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    return set(re.findall(r"@nox\.(?:session|parametrize).*\ndef (\w+)\(", text))


def test_workflows_name_sessions_that_exist() -> None:
    named = set()
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        for words in re.findall(r"nox (?:--json --list )?--session ([a-z_ ]+)", text):
            named |= set(words.split())
        for listed in re.findall(r"session: \[(.+)\]", text):
            named |= set(re.split(r", *", listed))
        named |= set(re.findall(r"- session: (\w+)", text))
    assert len(named) > 10
    assert named <= sessions()


def test_every_command_of_the_workflows_is_run_by_the_script() -> None:
    """A command or a nightly session that tools/workflows.py does not know is an error there."""
    pytest.importorskip("yaml")
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "workflows.py", "--list", "--fastrtc", "."],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(f"[{session}" in done.stdout for session in ("cluster", "soak", "fastrtc_compat", "beside"))


def test_workflows_name_files_that_exist() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    files = set(re.findall(r"(?:\.ci|tools)/[\w.]+", text))
    assert ".ci/run" in files
    assert all((ROOT / file).exists() for file in files)


def test_nothing_is_released_that_did_not_pass_ci() -> None:
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["ci"] == {"uses": "./.github/workflows/ci.yml"}
    assert jobs["build"]["needs"] == "ci"
    assert jobs["publish"]["needs"] == "build"
    called = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert "workflow_call" in called[True]  # YAML 1.1 reads `on` as true
    needed = set(called["jobs"]["all-good"]["needs"]) | {"all-good", "cells"}
    assert needed == set(called["jobs"])


def test_the_matrix_of_the_workflow() -> None:
    listed = json.dumps([{"session": "matrix-3.11(a='b')", "python": "3.11", "name": "matrix"}])
    made = subprocess.run(
        [sys.executable, ROOT / "tools" / "matrix.py"], input=listed, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(made) == [{"session": "matrix-3.11(a='b')", "python": "3.11"}]
    assert made.count("\n") == 1


@pytest.fixture
def changelog() -> Any:
    spec = importlib.util.spec_from_file_location("the_changelog", ROOT / "tools" / "changelog.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "src" / "rtcflow").mkdir(parents=True)
    (tmp_path / "src" / "rtcflow" / "_version.py").write_text('__version__ = "0.1.0"\n')
    (tmp_path / "changelog.d" / "README.md").write_text("# How\n")
    (tmp_path / "changelog.d" / "one-thing.added.md").write_text("It does\none thing.\n")
    (tmp_path / "changelog.d" / "two.fixed.md").write_text("- Two things.\n- Three.\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\nWords.\n\n## 0.1.0 (unreleased)\n\n- The first.\n")
    return tmp_path


def test_a_release_is_assembled(changelog: Any, tree: Path) -> None:
    with pytest.raises(SystemExit, match="not ready"):
        changelog.main(["--check-release", "0.1.0"], tree)
    changelog.main(["--assemble", "0.1.0"], tree)
    changelog.main(["--check-release", "0.1.0"], tree)
    assert [path.name for path in (tree / "changelog.d").iterdir()] == ["README.md"]
    text = (tree / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n\nWords.\n\n## 0.1.0 (2")
    assert "### Added\n\n- It does\n  one thing.\n\n### Fixed\n\n- Two things.\n- Three.\n\n- The first.\n" in text
    with pytest.raises(SystemExit, match="not ready"):
        changelog.main(["--check-release", "0.2.0"], tree)


def test_a_second_release_goes_above_the_first(changelog: Any, tree: Path) -> None:
    changelog.main(["--assemble", "0.1.0"], tree)
    (tree / "changelog.d" / "more.changed.md").write_text("More.\n")
    changelog.main(["--assemble", "0.2.0"], tree)
    text = (tree / "CHANGELOG.md").read_text()
    assert text.index("## 0.2.0 (") < text.index("- More.") < text.index("## 0.1.0 (") < text.index("- It does")


def test_a_fragment_with_a_wrong_name_is_refused(changelog: Any, tree: Path) -> None:
    (tree / "changelog.d" / "more.news.md").write_text("More.\n")
    with pytest.raises(SystemExit, match=r"more\.news\.md: the name must be topic\.kind\.md"):
        changelog.main([], tree)


def test_fragments_of_this_tree_can_be_assembled(changelog: Any) -> None:
    assert changelog.fragments(ROOT / "changelog.d")


@pytest.mark.parametrize("page", ["README.md", "docs/install.md"])
def test_each_extra_is_named(page: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not [extra for extra in extras if f"`{extra}`" not in text]


def test_links_of_the_readme_work_on_the_packages_page() -> None:
    """The build makes the links and the picture absolute (pyproject.toml)."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert "docs/_static/page.png" in links
    assert all((ROOT / link).exists() for link in links if ":" not in link)
    for step in settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(step["pattern"], step["replacement"], text)
    made = re.findall(r"\]\(([^)]+)\)", text)
    assert len(made) == len(links)
    assert all(link.startswith("https://") for link in made)

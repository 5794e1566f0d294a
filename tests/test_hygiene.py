"""Rules that no linter has: short files, no machine paths, a complete lock file, commands that exist."""

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PROGRAMS = SOURCES + [file for folder in ("tests", "experiments") for file in sorted((ROOT / folder).rglob("*.py"))]
LINES = 300
FUNCTION_LINES = 50

MACHINE_PATH = re.compile(r"(?<![\w./~$}])/(?:work|root|farm|home|Users)/\w")
REGISTRY = re.compile(
    "|".join(["py" + r"pi\.org", "python" + "hosted", "npm" + r"js\.", "--(?:extra-)?index" + "-url"])
)


def tracked() -> list[Path]:
    """Files that git tracks or would track, as text."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = (ROOT / name for name in listed.stdout.split("\0") if name)
    return sorted(file for file in files if file.is_file() and b"\0" not in file.read_bytes()[:8000])


def named(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def trees() -> list[tuple[str, ast.Module]]:
    return [(named(file), ast.parse(file.read_text(encoding="utf-8"))) for file in PROGRAMS]


def test_no_file_is_long() -> None:
    long = {named(file): count for file in PROGRAMS if (count := len(file.read_text().splitlines())) > LINES}
    assert long == {}


def test_no_function_is_long() -> None:
    long = {
        f"{name}:{node.name}": length
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    }
    assert long == {}


def test_packages_hold_a_docstring_and_nothing_else() -> None:
    own = "src/quantbooth/__init__.py"  # hands out the library's calls
    packages = [(name, tree) for name, tree in trees() if name.endswith("__init__.py") and name != own]
    assert [name for name, tree in packages if len(tree.body) != 1] == []


def test_nothing_is_left_undone_or_half_loaded() -> None:
    wrong = [f"{name}:{node.lineno} {why}" for name, tree in trees() for node, why in offences(tree)]
    assert wrong == []


def offences(tree: ast.Module) -> list[tuple[ast.expr, str]]:
    found: list[tuple[ast.expr, str]] = []
    for node in ast.walk(tree):
        match node:
            case ast.Name(id="NotImplementedError"):
                found.append((node, "something is left undone"))
            case ast.Call(func=ast.Attribute(attr="load_state_dict"), keywords=keywords) if _says(keywords, "strict"):
                found.append((node, "strict=False"))
            case ast.Call(keywords=keywords) if _says(keywords, "weights_only"):
                found.append((node, "weights_only=False"))
    return found


def _says(keywords: list[ast.keyword], name: str) -> bool:
    """True for `name=False` among the keywords of a call."""
    return any(k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is False for k in keywords)


def test_no_source_file_is_unfinished() -> None:
    marks = re.compile(r"\b(?:TODO|FIXME|XXX)\b")
    assert [named(file) for file in SOURCES if marks.search(file.read_text(encoding="utf-8"))] == []


def test_nothing_outside_diffusion_says_what_kind_the_denoiser_is() -> None:
    """Exempt: a file that goes into exported folders names their parts, and former options are answered."""
    package = ROOT / "src" / "quantbooth"
    inside = (
        package / "diffusion",
        package / "conf",
        package / "export" / "by_zone.py",
        package / "runtime" / "renamed.py",
    )
    files = [file for file in tracked() if file.is_relative_to(package)]
    words = re.compile("unet", re.IGNORECASE)
    found = [
        named(file)
        for file in files
        if not any(file.is_relative_to(folder) for folder in inside)
        and (words.search(file.name) or words.search(file.read_text(encoding="utf-8")))
    ]
    assert len(files) > 100
    assert found == []


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = [
        f"{named(file)}:{number} {line.strip()[:80]}"
        for file in tracked()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if MACHINE_PATH.search(line) or REGISTRY.search(line)
    ]
    assert found == []


def test_the_lock_file_is_plain_constraints_for_every_dependency() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    locked = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    names = {re.sub(r"[-_.]+", "-", re.split(r"[<>=!~; \[]", line)[0]).lower() for line in wanted}
    assert names - locked == set()


def test_commands_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    scripts = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
    for document in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]:
        text = document.read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
        assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= targets, document.name
        assert set(re.findall(r"(?<![\w./-])(quantbooth-[a-z]+)\b", code)) <= scripts, document.name


def test_tests_in_the_documents_exist() -> None:
    tests = [file.read_text(encoding="utf-8") for file in sorted((ROOT / "tests").rglob("*.py"))]
    functions = set(re.findall(r"^ *def (test_\w+)\(", "\n".join(tests), re.MULTILINE))
    texts = {file: file.read_text(encoding="utf-8") for file in tracked() if file.suffix == ".md"}
    named_files = {(file, name) for file, text in texts.items() for name in re.findall(r"\btests/[\w./]+\.py\b", text)}
    named_tests = {(file, name) for file, text in texts.items() for name in re.findall(r"`(test_\w+)`", text)}
    assert {(named(file), name) for file, name in named_files if not (ROOT / name).is_file()} == set()
    assert {(named(file), name) for file, name in named_tests if name not in functions} == set()
    assert len(named_files) > 10 and len(named_tests) > 3


def test_commands_name_functions_that_exist() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for target in scripts.values():
        module, _, function = target.partition(":")
        tree = ast.parse((ROOT / "src" / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
        names = {
            name.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for name in node.targets
            if isinstance(name, ast.Name)
        }
        names |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert function in names, module

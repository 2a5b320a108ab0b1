"""What a user installs: every file under its name, sources in the sdist, a wheel without C++."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import contrastile
import pytest
from clients import INTEGRATIONS
from contrastile.backends.triton.backend import OLDEST_TRITON

ROOT = Path(__file__).parents[1]
# Installed name of each source folder.
FOLDERS = {
    "python/contrastile": "contrastile",
    "triton_kernels": "contrastile.triton_kernels",
    "benches": "contrastile.benches",
}
# Tools for changing the kernels: in the sdist, not in the wheel.
UNSHIPPED = ("contrastile.benches.gpu", "contrastile.benches.kernels")
# All that a wheel consists of, besides its own metadata.
SHIPPED = {
    "contrastile",
    "contrastile/backends",
    "contrastile/backends/cpu",
    "contrastile/backends/cuda",
    "contrastile/backends/gpu",
    "contrastile/backends/triton",
    "contrastile/backends/triton/launches",
    "contrastile/benches",
    "contrastile/benches/providers",
    "contrastile/demo",
    "contrastile/engine",
    "contrastile/engine/sweep",
    "contrastile/integrations",
    "contrastile/losses",
    "contrastile/ops",
    "contrastile/parallel",
    "contrastile/planning",
    "contrastile/problem",
    "contrastile/training",
    "contrastile/triton_kernels",
}
# Bytes of a wheel without the extension: 465 709 were measured; the unshipped tools have 90 000.
LARGEST_WHEEL = 520_000
# What a checkout has beside the package, for the tests and for who reads.
IN_SDIST = ("csrc", "docs", "examples", "tests", *FOLDERS)
SOURCE_SUFFIXES = {".py", ".cpp", ".cu", ".h", ".json", ".md", ".png"}
LEFT_OUT = shutil.ignore_patterns(
    ".*", "__pycache__", "*.so", "*.egg-info", "build", "dist", "venv", "demo-out", "bench-out"
)

# An editable install would serve the repository's own files, its extension among them.
WITHOUT_EDITABLE = (
    "import sys\n"
    "def serves(finder): return not finder.__module__.startswith('__editable__')\n"
    "sys.meta_path[:] = [f for f in sys.meta_path if not hasattr(f, '__module__') or serves(f)]\n"
)


def module_names() -> list[str]:
    """The installed name of every Python file of a wheel that can be imported anywhere."""
    names = []
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            names.append(".".join((package, *parts)))
    left_out = ("__main__", *INTEGRATIONS)
    return sorted(n for n in names if not n.endswith(left_out) and not n.startswith(UNSHIPPED))


def own_imports(wheel: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """(file, module) for each import from the package itself, also those inside functions."""
    for file in (name for name in wheel.namelist() if name.endswith(".py")):
        package = file.rpartition("/")[0].replace("/", ".")
        for node in ast.walk(ast.parse(wheel.read(file))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                source = resolve_name("." * node.level + (node.module or ""), package)
                inside = [f"{source}.{alias.name}" for alias in node.names]
                # What is imported from a package need not be a module of it.
                names = [source, *(name for name in inside if name.startswith(UNSHIPPED))]
            yield from ((file, name) for name in names if name.split(".")[0] == "contrastile")


def run(*command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that a build leaves nothing behind in the repository."""
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("copy") / "sources", ignore=LEFT_OUT)


@pytest.fixture(scope="module")
def dist(sources: Path) -> Path:
    """An sdist, and the wheel built from it without the extension, all offline."""
    built = run("-m", "build", "--no-isolation", folder=sources, CONTRASTILE_NATIVE="0")
    assert built.returncode == 0, built.stderr[-2000:]
    return sources / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    (path,) = dist.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def installed(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    wheel.extractall(folder)
    return folder


def test_wheel_without_extension_is_pure(dist: Path, wheel: zipfile.ZipFile) -> None:
    (path,) = dist.glob("*.whl")
    assert path.name == f"contrastile-{contrastile.__version__}-py3-none-any.whl"
    assert not [n for n in wheel.namelist() if n.endswith((".so", ".pyd", ".cpp", ".h"))]


def test_wheel_holds_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    files = {n for n in wheel.namelist() if ".dist-info/" not in n}
    assert {n.split("/")[0] for n in files} == {"contrastile"}
    expected = {
        "/".join((*package.split("."), *path.relative_to(ROOT / folder).parts))
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    unshipped = tuple(name.replace(".", "/") for name in UNSHIPPED)
    expected = {name for name in expected if not name.startswith(unshipped)}
    assert {n for n in files if n.endswith(".py")} == expected
    assert "contrastile/py.typed" in files


def test_wheel_has_these_folders(wheel: zipfile.ZipFile) -> None:
    """Code and launch configurations: no tools for its kernels, tests, figures or C++."""
    files = [n for n in wheel.namelist() if ".dist-info/" not in n]
    assert {n.rpartition("/")[0] for n in files} == SHIPPED
    launches = {n for n in files if n.startswith("contrastile/backends/triton/launches/")}
    others = {n for n in files if not n.endswith(".py")}
    assert others == launches | {"contrastile/py.typed"}


def test_wheel_is_small(dist: Path) -> None:
    (path,) = dist.glob("*.whl")
    assert path.stat().st_size <= LARGEST_WHEEL


def test_what_is_shipped_imports_nothing_that_is_not(wheel: zipfile.ZipFile) -> None:
    files = set(wheel.namelist())
    found = [(file, name, name.replace(".", "/")) for file, name in own_imports(wheel)]
    assert len(found) > 100
    missing = [
        f"{file} imports {name}"
        for file, name, path in found
        if not files & {f"{path}.py", f"{path}/__init__.py"}
    ]
    assert not missing


def test_wheel_tells_version_licence_and_command(wheel: zipfile.ZipFile) -> None:
    info = f"contrastile-{contrastile.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert f"\nVersion: {contrastile.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "\nRequires-Python: >=3.10\n" in metadata
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert "contrastile = contrastile.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_wheel_requires_torch_and_no_triton_of_its_own(wheel: zipfile.ZipFile) -> None:
    """A GPU build of torch brings the Triton that it needs; a second would lie in one folder with
    another's. Tests need one, and the bound is the one that the backend holds it to.
    """
    metadata = wheel.read(f"contrastile-{contrastile.__version__}.dist-info/METADATA").decode()
    lines = [line.partition(": ")[2] for line in metadata.splitlines() if "Requires-Dist:" in line]
    required = {line for line in lines if "extra ==" not in line}
    assert {re.split(r"[<>=!~ ]", line)[0] for line in required} == {
        "numpy",
        "torch",
        "typing-extensions",
    }
    assert "torch>=2.9" in required
    oldest = ".".join(map(str, OLDEST_TRITON))
    (triton,) = [line for line in lines if line.startswith("triton")]
    assert triton.startswith(f"triton>={oldest};") and 'extra == "triton"' in triton
    (own,) = [line for line in lines if line.startswith("contrastile[demo")]
    assert "triton" in own.partition("]")[0] and 'extra == "test"' in own


def test_every_file_is_importable_under_its_installed_name(installed: Path) -> None:
    code = (
        f"{WITHOUT_EDITABLE}import importlib, pathlib\n"
        f"for name in {module_names()!r}:\n"
        "    module = importlib.import_module(name)\n"
        f"    assert pathlib.Path(module.__file__).is_relative_to({str(installed)!r}), name\n"
        "assert 'contrastile._C' not in sys.modules"
    )
    imported = run("-c", code, folder=installed, PYTHONPATH=str(installed))
    assert imported.returncode == 0, imported.stderr[-2000:]


def test_commands_run_as_installed(installed: Path) -> None:
    commands = ["--help", "demo --help", "doctor", "bench --help", "bench --list", "tune --help"]
    commands += ["verify --help", "verify --backend cpu", "plan --size 64 --gpus 2"]
    code = (
        f"{WITHOUT_EDITABLE}from contrastile import cli\n"
        f"assert cli.__file__.startswith({str(installed)!r})\n"
        f"for command in {commands!r}:\n"
        "    try:\n"
        "        status = cli.main(command.split())\n"
        "    except SystemExit as end:\n"
        "        status = end.code\n"
        "    assert status == 0, (command, status)\n"
    )
    ran = run("-c", code, folder=installed, PYTHONPATH=str(installed))
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("usage: contrastile") == 5 and "Backends, best first" in ran.stdout


def test_losses_work_without_the_extension(installed: Path) -> None:
    code = (
        f"{WITHOUT_EDITABLE}import contrastile, torch\n"
        "x = torch.eye(4, requires_grad=True)\n"
        "contrastile.clip_loss(x, torch.eye(4), temperature=0.5).backward()\n"
        "assert contrastile.native.load() is None and x.grad.isfinite().all()"
    )
    ran = run("-c", code, folder=installed, PYTHONPATH=str(installed))
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_kernels_refuse_the_name_of_another_package() -> None:
    guarded = run("-c", "import triton_kernels", folder=ROOT, PYTHONPATH=str(ROOT))
    assert guarded.returncode != 0
    assert "this folder is contrastile.triton_kernels" in guarded.stderr


def test_sdist_holds_what_builds_and_tests_need(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = ["setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"]
    needed += ["CONTRIBUTING.md", "MANIFEST.in", "constraints.txt", "python/contrastile/py.typed"]
    for folder in IN_SDIST:
        found = [p for p in (ROOT / folder).rglob("*") if p.is_file()]
        sources = [path for path in found if path.suffix in SOURCE_SUFFIXES]
        assert sources, folder
        needed += [path.relative_to(ROOT).as_posix() for path in sources]
    assert sorted(set(needed) - names) == []
    assert not [n for n in names if n.endswith((".so", ".pyc"))]


@pytest.mark.parametrize("value", ["maybe", "2", "true", ""])
def test_a_wrong_native_mode_is_an_error(value: str, sources: Path) -> None:
    refused = run("setup.py", "--name", folder=sources, CONTRASTILE_NATIVE=value)
    assert refused.returncode != 0
    assert f"CONTRASTILE_NATIVE: expected 0, 1 or auto, got {value!r}" in refused.stderr


def test_native_mode_one_demands_a_compiler(sources: Path) -> None:
    """Asked for and impossible is an error, never a wheel without."""
    refused = run(
        "setup.py", "--name", folder=sources, CONTRASTILE_NATIVE="1", CC="/no/cc", CXX="/no/c++"
    )
    assert refused.returncode != 0
    assert "CONTRASTILE_NATIVE=1, but no C++17 compiler works" in refused.stderr

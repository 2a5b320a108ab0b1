"""What needs no number: lint, types, doctests, file lengths, the public names, the version."""

from __future__ import annotations

import doctest
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import contrastile
import pytest
from clients import INTEGRATIONS

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".cpp", ".h", ".cu", ".cuh", ".sh", ".yaml", ".yml", ".toml"}
LONGEST = 400
PUBLIC = """
    DCL DCLW ClipLoss ContrastileWarning DistillClipLoss GISTEmbedLoss GramLoss HardNegativeNCE
    InfoNCE InputError LogitScale Matryoshka MaxSimInfoNCE MemoryQueue MultiPositiveNCE NTXent
    Qwen3Loss SigLip Stats SupCon __version__ clip_loss dcl_loss dclw_loss distill_clip_loss
    functional gist_loss gram_loss hard_negative_nce info_nce matryoshka max_sim_info_nce
    multi_positive_nce nt_xent ops qwen3_loss siglip_loss supcon_loss warm_up
"""
DOCUMENTED = [
    "contrastile.functional",
    "contrastile.losses",
    "contrastile.ops",
    "contrastile.problem",
    "contrastile.testing",
    "contrastile.training",
]


def check(*command: str, folder: Path = ROOT) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def project_files() -> Iterator[Path]:
    for folder in ("python", "csrc", "triton_kernels", "benches", "tests", "examples"):
        yield from (p for p in sorted((ROOT / folder).rglob("*")) if p.suffix in SUFFIXES)
    yield from (ROOT / "setup.py", ROOT / "pyproject.toml")


def modules() -> list[str]:
    """Every module of the package, but those that only run or need a library to be there."""
    package = ROOT / "python" / "contrastile"
    names = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if not name.endswith(("__main__", *INTEGRATIONS))]


def test_lint() -> None:
    check("ruff", "check", "--no-cache", ".")


def test_format() -> None:
    check("ruff", "format", "--no-cache", "--check", ".")


def test_types(tmp_path: Path) -> None:
    """Strict, over the package as it is installed: with its kernels and benches."""
    left_out = shutil.ignore_patterns("__pycache__", "*.so")
    for folder, name in (
        ("python/contrastile", "contrastile"),
        ("triton_kernels", "contrastile/triton_kernels"),
        ("benches", "contrastile/benches"),
    ):
        shutil.copytree(ROOT / folder, tmp_path / name, ignore=left_out, dirs_exist_ok=True)
    options = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / "c"))
    check("mypy", *options, "-p", "contrastile", folder=tmp_path)


@pytest.mark.parametrize("name", modules())
def test_doctests(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert not results.failed, f"{results.failed} of {results.attempted} examples"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_everything_public_is_documented(name: str) -> None:
    """Functions show an example, classes and functions tell what they are."""
    module = importlib.import_module(name)
    for public in module.__all__:
        thing = getattr(module, public)
        assert thing.__doc__, f"{name}.{public}"
        if callable(thing) and not isinstance(thing, type):
            assert ">>> " in thing.__doc__, f"{name}.{public} has no example"
            assert "Raises:" in thing.__doc__, f"{name}.{public} does not say what it raises"


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in project_files()}
    assert not {str(path): lines for path, lines in lengths.items() if lines > LONGEST}


def test_no_silent_fallback_is_possible() -> None:
    """No bare except, none of everything."""
    pattern = re.compile(r"^\s*except(\s+(Base)?Exception\b.*)?:", re.MULTILINE)
    caught = [
        p.name for p in project_files() if p.suffix == ".py" and pattern.search(p.read_text())
    ]
    assert not caught


def test_public_names() -> None:
    assert sorted(contrastile.__all__) == sorted(PUBLIC.split())
    for name in contrastile.__all__:
        assert hasattr(contrastile, name), name
    for name in contrastile.functional.__all__:
        assert getattr(contrastile, name) is getattr(contrastile.functional, name)


def test_no_module_exports_a_name_it_lacks() -> None:
    for name in modules():
        module = importlib.import_module(name)
        missing = [n for n in getattr(module, "__all__", []) if not hasattr(module, n)]
        assert not missing, f"{name}: {missing}"


def test_changelog_has_the_version() -> None:
    """The newest entry is the version that would be released."""
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", contrastile.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = re.findall(r"^## \[?(\d[^\]\s]*)", changelog, re.MULTILINE)
    assert entries and entries[0] == contrastile.__version__

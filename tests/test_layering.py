"""Who may import whom: each layer sees those before it, and nothing heavy comes along."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "contrastile"

# From the bottom up. A layer may import itself and what stands before it; a name is a module or
# a folder of the package, "contrastile" its public face.
LAYERS = [
    "native",
    "problem",
    "engine",
    "triton_kernels",
    "backends",
    "ops",
    "parallel",
    "losses",
    "functional",
    "training",
    "warm_up",
    "contrastile",
    "integrations",
    "testing",
    "doctor",
    "verify",
    "verify_libraries",
    "verify_ranks",
    "planning",
    "benches",
    "demo",
    "cli",
    "__main__",
]
CORE = LAYERS[: LAYERS.index("contrastile") + 1]
# What the core may use besides itself and the standard library.
CORE_PACKAGES = {"numpy", "torch", "typing_extensions"}
TRITON = ("contrastile.backends.triton", "contrastile.triton_kernels")
# What the benches may know of the backends beyond their names: what they report on, and plans.
REPORTED = {"backends.triton", "backends.gpu", "backends.gpu.strips", "engine.forward"}
REPORTED |= {f"backends.triton.{m}" for m in ("backend", "device", "launch", "start")}
# Each of these takes longer to import than all of the core.
HEAVY = {"contrastile._C", "matplotlib", "PIL", "rich", "sympy", "torch._dynamo", "triton"}


@dataclass(frozen=True)
class Import:
    """``target`` imported by ``module``, both in full."""

    module: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def modules() -> dict[str, ast.Module]:
    """Every module of python/contrastile by its full name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


MODULES = modules()


def imports(name: str) -> Iterator[Import]:
    """The import statements of a module, also those inside functions, relative ones resolved."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    package = name if path.is_dir() else name.rpartition(".")[0]
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - max(node.level - 1, 0)]
            base = ".".join(parents) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                known = whole in MODULES or alias.name == "_C"
                yield Import(name, whole if known else source, node.lineno)


IMPORTS = [found for name in MODULES for found in imports(name)]


def layer_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def room_of(name: str) -> str:
    """The part of a room that a module is of, as contrastile.backends.cpu."""
    return ".".join(name.split(".")[:3])


def top(name: str) -> str:
    return name.split(".")[0]


def test_every_module_has_a_layer() -> None:
    assert {layer_of(name) for name in MODULES} <= set(LAYERS)


def test_layers_see_only_what_is_below_them() -> None:
    rank = {layer: position for position, layer in enumerate(LAYERS)}
    upward = [
        str(found)
        for found in IMPORTS
        if top(found.target) == "contrastile"
        and layer_of(found.target) != "_C"
        and rank[layer_of(found.target)] > rank[layer_of(found.module)]
    ]
    assert not upward


def test_no_module_imports_itself_in_a_circle() -> None:
    """As a module is loaded; what functions import when they are called is another matter."""
    graph: dict[str, set[str]] = {}
    for name, tree in MODULES.items():
        at_once = {node.lineno for node in tree.body}
        graph[name] = {i.target for i in imports(name) if i.line in at_once} & set(MODULES)
    left = dict(graph)
    while left:
        free = [name for name, targets in left.items() if not (targets - {name}) & set(left)]
        assert free, f"each of these imports another of them: {', '.join(sorted(left))}"
        for name in free:
            del left[name]


def test_the_core_sees_no_tool() -> None:
    """Nothing below the public face knows demo, command line or testing."""
    tools = set(LAYERS) - set(CORE)
    found = [i for i in IMPORTS if layer_of(i.module) in CORE and layer_of(i.target) in tools]
    assert not [str(i) for i in found if top(i.target) == "contrastile"]


def test_the_core_needs_torch_and_numpy_alone() -> None:
    allowed = CORE_PACKAGES | {"contrastile"} | set(sys.stdlib_module_names)
    foreign = [
        str(found)
        for found in IMPORTS
        if layer_of(found.module) in CORE
        and top(found.target) not in allowed
        and not (found.module.startswith(TRITON) and top(found.target) == "triton")
    ]
    assert not foreign


def test_the_engine_knows_no_backend_and_no_loss() -> None:
    above = {"backends", "ops", "losses"}
    assert not [
        str(i) for i in IMPORTS if layer_of(i.module) == "engine" and layer_of(i.target) in above
    ]


def test_backends_do_not_import_one_another() -> None:
    from contrastile.backends import BACKENDS

    rooms = {room_of(type(backend).__module__) for backend in BACKENDS}
    assert {"contrastile.backends.cpu", "contrastile.backends.triton"} < rooms
    crossing = [
        str(found)
        for found in IMPORTS
        if room_of(found.module) in rooms
        and room_of(found.target) in rooms - {room_of(found.module)}
    ]
    assert not crossing


def test_what_gpus_share_knows_no_backend() -> None:
    shared = "contrastile.backends.gpu"
    targets = {i.target for i in IMPORTS if room_of(i.module) == shared}
    rooms = {room_of(target) for target in targets if target.startswith("contrastile.backends")}
    assert rooms == {shared}


def test_only_native_imports_the_extension() -> None:
    assert not [str(i) for i in IMPORTS if i.target.endswith("._C")]
    loaders = [
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and any(isinstance(a, ast.Constant) and str(a.value).endswith("._C") for a in node.args)
        and ast.unparse(node.func).split(".")[-1] in ("import_module", "find_spec", "__import__")
    ]
    assert set(loaders) == {"contrastile.native"}


def test_only_the_triton_backend_names_triton() -> None:
    found = [i for i in IMPORTS if top(i.target) == "triton"]
    found += [i for i in IMPORTS if "triton_kernels" in i.target.split(".")]
    assert not [str(i) for i in found if not i.module.startswith(TRITON)]


def test_no_hidden_switches_in_the_environment() -> None:
    """But for one: launches that were tuned, which change no result."""
    readers = {
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Attribute, ast.Name))
        and ast.unparse(node) in ("os.environ", "os.getenv", "os.putenv", "environ", "getenv")
    }
    assert readers <= {"contrastile.backends.triton.launch"}


def test_benches_use_the_public_api() -> None:
    public = {"", "functional", "ops", "problem", "testing", "backends", "verify", "planning"}
    public |= {"losses.registry", "losses.inputs"}
    used = set()
    for path in (ROOT / "benches").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            ours = [name for name in names if top(name) == "contrastile"]
            used |= {name.partition(".")[2] for name in ours if layer_of(name) != "benches"}
    assert used <= public | REPORTED


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """What ``import contrastile`` loads on top of torch, in a fresh process."""
    code = (
        "import json, sys, time, torch\n"
        "before, start = set(sys.modules), time.perf_counter()\n"
        "import contrastile\n"
        "seconds = time.perf_counter() - start\n"
        "print(json.dumps([seconds, sorted(set(sys.modules) - before)]))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, names = json.loads(done.stdout)
    print(f"import contrastile: {1000 * seconds:.0f} ms on top of torch")
    return set(names)


def test_import_loads_nothing_heavy(loaded: set[str]) -> None:
    assert not {name for name in loaded if name in HEAVY or top(name) in HEAVY}


def test_import_loads_the_core_only(loaded: set[str]) -> None:
    own = {name for name in loaded if top(name) == "contrastile"}
    assert {layer_of(name) for name in own} <= set(CORE)
    foreign = {top(name) for name in loaded - own} - set(sys.stdlib_module_names)
    assert foreign <= CORE_PACKAGES

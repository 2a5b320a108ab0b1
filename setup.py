"""What pyproject.toml cannot say: where the packages lie, and the native extension.

CONTRASTILE_NATIVE=0 builds without it, 1 demands it, auto (the default) builds it where a C++17
compiler is found. With a compiler present a compile error is an error in either mode.
"""

from __future__ import annotations

import os
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, LinkError, PlatformError

from distutils.ccompiler import new_compiler  # isort: skip  # served by setuptools
from distutils.sysconfig import customize_compiler  # isort: skip

FOLDERS = {"contrastile.triton_kernels": "triton_kernels", "contrastile.benches": "benches"}

FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden"]
# Contraction to fma and no traps or errno: faster loops, the same NaN and infinity rules.
FLAGS += ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
AVX2_FLAGS = ["-mavx2", "-mfma"]
AVX512_FLAGS = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"]
LEVEL_FLAGS = {
    "level_avx2.cpp": AVX2_FLAGS,
    "level_avx512.cpp": [*AVX2_FLAGS, *AVX512_FLAGS, "-mprefer-vector-width=512"],
}


def native_mode() -> str:
    mode = os.environ.get("CONTRASTILE_NATIVE", "auto")
    if mode not in ("0", "1", "auto"):
        raise SystemExit(f"CONTRASTILE_NATIVE: expected 0, 1 or auto, got {mode!r}")
    return mode


def compiles(flags: list[str], code: str) -> str | None:
    """None if a program with these flags compiles and links, else why not."""
    compiler = new_compiler()
    if compiler.compiler_type == "msvc":
        return "the native code is written for GCC and Clang"
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(code)
        try:
            objects = compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
            compiler.link_executable(
                objects, "probe", folder, extra_postargs=flags, target_lang="c++"
            )
        except (CompileError, LinkError, PlatformError, CCompilerError) as error:
            return str(error)
    return None


def extensions() -> list[Extension]:
    mode = native_mode()
    if mode == "0":
        return []
    reason = compiles(FLAGS, "#include <vector>\nint main() { return std::vector<int>().size(); }")
    if reason is not None:
        if mode == "1":
            raise SystemExit(f"CONTRASTILE_NATIVE=1, but no C++17 compiler works: {reason}")
        print(f"contrastile: building without the native backend: {reason}")
        return []
    import pybind11

    openmp = ["-fopenmp"]
    reason = compiles([*FLAGS, *openmp], "#include <omp.h>\nint main() { omp_get_max_threads(); }")
    if reason is not None:
        print(f"contrastile: the native backend will use one thread, no OpenMP: {reason}")
        openmp = []
    sources = {path.name: str(path) for path in sorted(Path("csrc").glob("*.cpp"))}
    macros = [("CONTRASTILE_X86_LEVELS", "1")]
    if platform.machine().lower() not in ("x86_64", "amd64"):
        sources = {name: path for name, path in sources.items() if name not in LEVEL_FLAGS}
        macros = []
    return [
        Extension(
            "contrastile._C",
            list(sources.values()),
            depends=[str(path) for path in sorted(Path("csrc").glob("*.h"))],
            include_dirs=[pybind11.get_include()],
            define_macros=macros,
            extra_compile_args=[*FLAGS, *openmp],
            extra_link_args=openmp,
            language="c++",
        )
    ]


class BuildLevels(build_ext):
    """Compiles the sources side by side, each level with the flags of its instruction set."""

    def build_extensions(self) -> None:
        compile_some = self.compiler.compile

        def compile_all(sources: list[str], **options: Any) -> list[str]:
            common = options.pop("extra_postargs", None) or []

            def compile_one(source: str) -> list[str]:
                flags = [*common, *LEVEL_FLAGS.get(Path(source).name, [])]
                return compile_some([source], extra_postargs=flags, **options)

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return [name for names in pool.map(compile_one, sources) for name in names]

        self.compiler.compile = compile_all
        super().build_extensions()


def packages() -> list[str]:
    found = find_packages("python")
    for name, folder in FOLDERS.items():
        found += [name, *(f"{name}.{part}" for part in find_packages(folder))]
    return found


setup(
    package_dir={"": "python", **FOLDERS},
    packages=packages(),
    package_data={"contrastile": ["py.typed", "backends/triton/launches/*.json"]},
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildLevels},
)

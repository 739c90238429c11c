"""Finds, builds on first use and loads the compiled operators; says which run and why not.

The library is looked for beside the package (a wheel built where torch was at hand), then in the
user's cache, and else compiled into that cache from the sources that the package carries; that
for CUDA likewise, by nvcc, where torch sees a GPU. Without a compiler everything runs on the torch
reference. MESHSIM_NATIVE=0 switches compiled operators off, MESHSIM_ISA=portable|avx2|avx512
narrows the instruction set, MESHSIM_CACHE moves the cache, MESHSIM_CXXFLAGS adds flags for the C++
compiler (`make asan`).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

LIBRARY = "libmeshsim_cpu.so"
CUDA_LIBRARY = "libmeshsim_cuda.so"
FLAGS = (
    *("-O3", "-std=gnu++20", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-w"),
    *("-fno-math-errno", "-fno-trapping-math"),
    "-DTORCH_TARGET_VERSION=0x020b000000000000",  # the stable ABI of 2.11: no later one is needed
    *os.environ.get("MESHSIM_CXXFLAGS", "").split(),
)
CUDA_FLAGS = (
    *("-O3", "-std=c++20", "-w", "-Xcompiler=-fPIC,-fvisibility=hidden,-w", "-DUSE_CUDA"),
    *("--expt-relaxed-constexpr", "-DTORCH_TARGET_VERSION=0x020b000000000000"),
)
_state = {"isa": "", "why": "not loaded yet: `meshsim.ops` loads it", "cuda": ""}
_waits = [True]  # for a compiler, see `unbuilt`


def allowed() -> bool:
    """False if the environment switches compiled operators off with MESHSIM_NATIVE=0."""
    return os.environ.get("MESHSIM_NATIVE", "1") != "0"


def defined() -> list[str]:
    """The operators of namespace `meshsim`, sorted; `import meshsim.ops` defines them."""
    schemas = torch._C._jit_get_all_schemas()
    names = {
        schema.name.removeprefix("meshsim::") for schema in schemas if "meshsim::" in schema.name
    }
    return sorted(names)


def has_kernel(op: str, device: str) -> bool:
    """Ask torch's dispatcher whether an operator has a compiled kernel for "CPU" or "CUDA"."""
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key(f"meshsim::{op}", device)
    except RuntimeError:  # no such operator
        return False


def active() -> dict[str, dict[str, str]]:
    """Say for each operator what runs: "native" or "reference", and why.

    Returns:
        {operator: {"cpu": …, "cuda": …, "why": one sentence}}.

    >>> import meshsim.ops
    >>> sorted(active()["segment_sum"])
    ['cpu', 'cuda', 'why']
    """
    out = {}
    for op in defined():
        cpu, cuda = has_kernel(op, "CPU"), has_kernel(op, "CUDA")
        if cpu or cuda:
            why = f"compiled kernel loaded ({_state['isa']})" if cpu else "compiled kernel loaded"
        elif not allowed():
            why = "switched off by MESHSIM_NATIVE=0"
        else:
            why = _state["why"] or "no compiled kernel of this operator; the torch reference runs"
        if not cuda and allowed() and torch.cuda.is_available():
            why += f"; on CUDA: {_state['cuda'] or 'no kernel, the torch reference runs'}"
        out[op] = {
            "cpu": "native" if cpu else "reference",
            "cuda": "native" if cuda else "reference",
            "why": why,
        }
    return out


def isa() -> str:
    """Instruction set of the compiled operators: portable, avx2, avx512 or amx; "" without them."""
    return _state["isa"]


def load() -> None:
    """Load the library, building it if need be; what fails is kept for `active`, not raised."""
    if _state["isa"] or not allowed():
        return
    try:
        path = find()
        torch.ops.load_library(path)
        library = ctypes.CDLL(str(path))
        library.meshsim_isa.restype = ctypes.c_char_p
        _state.update(isa=library.meshsim_isa().decode(), why="")
    except (OSError, RuntimeError, AttributeError) as error:  # no compiler, no room
        _state["why"] = _told(error)
    if torch.version.cuda and torch.cuda.is_available() and not has_kernel("gather_sum", "CUDA"):
        try:
            torch.ops.load_library(find_cuda())
        except (OSError, RuntimeError) as error:
            _state["cuda"] = _told(error)


@contextmanager
def unbuilt() -> Iterator[None]:
    """Within, a library that is there is loaded but none compiled.

    A command that takes a second would wait minutes for operators that save it nothing.
    """
    _waits.append(False)
    try:
        yield
    finally:
        _waits.pop()


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def find() -> Path:
    """The library: the wheel's, the cache's, or compiled now into the cache.

    Raises:
        RuntimeError: it cannot be built; says why.
        OSError: the cache cannot be written.
    """
    shipped = Path(__file__).parent / "lib" / LIBRARY
    if shipped.exists():
        return shipped
    return _made(LIBRARY, build, (*FLAGS, platform.machine()), (".cpp", ".h"))


def find_cuda() -> Path:
    """The library for this machine's GPUs: the cache's, or compiled now into the cache.

    Raises:
        RuntimeError: it cannot be built; says why.
        OSError: the cache cannot be written.
    """
    count = torch.cuda.device_count()
    pairs = {torch.cuda.get_device_capability(i) for i in range(count)}
    names = sorted(f"{major}{minor}" for major, minor in pairs)

    def make(sources: Path, path: Path) -> None:
        build_cuda(sources, path, names)

    return _made(CUDA_LIBRARY, make, (*CUDA_FLAGS, *names), (".cu", ".h"))


def _made(
    name: str, make: Callable[[Path, Path], None], flags: tuple[str, ...], kinds: tuple[str, ...]
) -> Path:
    package = Path(__file__).parent
    sources = next((p for p in (package / "csrc", package.parent / "csrc") if p.is_dir()), None)
    if sources is None:
        raise RuntimeError("neither the library nor its sources came with the package")
    path = _cache() / _fingerprint(sources, flags, kinds) / name
    if not path.exists():
        if not _waits[-1]:
            raise RuntimeError("not compiled yet, and not worth the wait; the torch reference runs")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent / "lock"):
            if not path.exists():  # another process may have built it while this one waited
                for left in path.parent.glob("tmp*"):  # by a build that was killed
                    shutil.rmtree(left, ignore_errors=True)
                make(sources, path)
    return path


def build(sources: Path, path: Path) -> None:
    """Compile `sources` into the library `path`; it appears whole or not at all.

    Raises:
        RuntimeError: no compiler, or its first error.
    """
    compiler = _compiler()
    files = sorted(sources.rglob("*.cpp"))
    linker = (compiler, *_linked("cpu"))
    compile_all(files, (compiler, *FLAGS, f"-I{sources}"), linker, path, "one to three minutes")


def build_cuda(sources: Path, path: Path, capabilities: Sequence[str]) -> None:
    """Compile the CUDA sources for capabilities such as "90" into the library `path`.

    Raises:
        RuntimeError: no nvcc, or its first error.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise RuntimeError("no nvcc found; the torch reference runs")
    codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in capabilities]
    files = sorted(sources.rglob("*.cu"))
    linker = (nvcc, *_linked("cpu", "cuda"))
    compile_all(files, (nvcc, *CUDA_FLAGS, *codes, f"-I{sources}"), linker, path, "some minutes")


def _linked(*parts: str) -> list[str]:
    lib = Path(torch.__file__).parent / "lib"
    names = [name for part in parts for name in (f"torch_{part}", f"c10_{part}")] + ["c10"]
    # a torch for CPUs has none for CUDA: enough to see that everything compiles
    found = [f"-l{name}" for name in names if (lib / f"lib{name}.so").exists()]
    return ["-shared", f"-L{lib}", *found]


def compile_all(
    files: Sequence[Path], compiler: Sequence[str], linker: Sequence[str], path: Path, takes: str
) -> None:
    """Compile `files`, some at a time, and link them into `path`; it appears whole or not at all.

    Says first that it `takes` a time such as "some minutes".

    Raises:
        RuntimeError: the first error of the compiler.
    """
    told = f"meshsim: compiling its operators, once ({takes}) ..."
    print(told, file=sys.stderr, flush=True)  # noqa: T201
    include = Path(torch.__file__).parent / "include"
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:

        def compile_one(file: Path) -> str:
            target = str(Path(folder) / f"{file.parent.name}_{file.stem}.o")
            _run([*compiler, f"-I{include}", "-c", str(file), "-o", target])
            return target

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = list(pool.map(compile_one, files))
        made = Path(folder) / path.name
        _run([linker[0], *objects, *linker[1:], "-o", str(made)])
        made.replace(path)


def _cache() -> Path:
    given = os.environ.get("MESHSIM_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshsim"


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    raise RuntimeError("no C++ compiler found (CXX, c++, g++, clang++); the torch reference runs")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "failed")
        raise RuntimeError(f"compiling the operators failed: {first}")


def _fingerprint(sources: Path, flags: tuple[str, ...], kinds: tuple[str, ...]) -> str:
    known = hashlib.sha256(" ".join(flags).encode())
    for file in sorted(p for p in sources.rglob("*") if p.suffix in kinds):
        known.update(f"\0{file.relative_to(sources)}\0".encode() + file.read_bytes())
    return known.hexdigest()[:16]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # not on Windows: two processes may compile at once, the last one wins
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go by the system when the process ends
        yield

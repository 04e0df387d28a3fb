"""Compiles binding.cpp on first use, with the machine's own compiler, into the user's cache folder.

What is compiled is known by a hash of the sources, the flags and the compiler, so a changed header is compiled anew. The file
gets its name when it is whole, and of processes that want the same at once one compiles it.

Environment, looked at when a call is first compiled:
    CXX                         the C++ compiler; otherwise g++, c++ or clang++ of the PATH
    CUDA_HOME                   the CUDA Toolkit; otherwise the nvcc of the PATH
    COTTENTION_INCLUDE          the folder with the headers of cottention
    COTTENTION_CACHE            where compiled calls are kept; otherwise XDG_CACHE_HOME/cottention or ~/.cache/cottention
    COTTENTION_FLAGS            flags for the compiler, after the package's own
    COTTENTION_QUIET            not empty: nothing is said of compiling
"""
import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time

SOURCE = pathlib.Path(__file__).with_name("binding.cpp")
ELEMENTS = {"fp64": "double", "fp32": "float", "fp16": "cottention::half", "bf16": "cottention::bfloat16"}
OLDEST_GXX, OLDEST_CLANG = 12, 14


class CompilerError(RuntimeError):
    """There is no compiler, or it refused the source."""


@functools.cache
def include_folder():
    """The headers: those named, those beside this package where it is installed, or those of the clone."""
    named = os.environ.get("COTTENTION_INCLUDE")
    places = [pathlib.Path(named)] if named else [SOURCE.parent / "include", SOURCE.parents[3] / "include"]
    for place in places:
        if (place / "cottention" / "version.hpp").is_file():
            return place
    raise CompilerError(f"the headers of cottention are not in {' or '.join(map(str, places))}. "
                        "Remedy: set COTTENTION_INCLUDE to the folder that has cottention/version.hpp.")


def cache_folder():
    named = os.environ.get("COTTENTION_CACHE")
    if named:
        return pathlib.Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "cottention"


@functools.cache
def sources_hash():
    """A hash of the source and of every header."""
    digest = hashlib.sha256(SOURCE.read_bytes())
    root = include_folder()
    for header in sorted(root.glob("cottention/**/*")):
        if header.is_file():
            digest.update(f"{header.relative_to(root)}\0".encode())
            digest.update(header.read_bytes())
    return digest.hexdigest()


@functools.cache
def version_of(compiler):
    """What the compiler says of itself, with the machine that -march=native means."""
    try:
        said = subprocess.run([*shlex.split(compiler), "--version"], capture_output=True, text=True)
    except OSError as error:
        raise CompilerError(f"the compiler {compiler} cannot be run: {error.strerror}. Remedy: CXX or, for GPUs, CUDA_HOME.") from error
    if said.returncode != 0:
        raise CompilerError(f"{compiler} --version fails: {said.stderr.strip()}")
    return f"{said.stdout}\n{platform.machine()}\n{_cpu_flags()}"


def _cpu_flags():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    except OSError:
        pass
    return platform.processor()


@functools.cache
def host_compiler():
    named = os.environ.get("CXX")
    if named:
        return named
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name):
            return name
    raise CompilerError("cottention compiles its calls on first use and found no C++ compiler. "
                        f"Remedy: install g++ {OLDEST_GXX} or clang++ {OLDEST_CLANG}, or newer, or name one by CXX.")


@functools.cache
def cuda_compiler():
    home = os.environ.get("CUDA_HOME")
    if home and (pathlib.Path(home) / "bin" / "nvcc").is_file():
        return shlex.quote(str(pathlib.Path(home) / "bin" / "nvcc"))
    if shutil.which("nvcc"):
        return "nvcc"
    raise CompilerError("cottention compiles its calls on first use and found no nvcc. "
                        "Remedy: install the CUDA Toolkit 13.0 or newer, or name its folder by CUDA_HOME.")


def architecture(capability):
    """nvcc's name of a compute capability; 9.0 with the features of its own kernels."""
    major, minor = capability
    return f"sm_{major}{minor}a" if (major, minor) == (9, 0) else f"sm_{major}{minor}"


def command(call, element, mask, scale, head_dim=None, capability=None):
    """The compiler's command line without the output. A GPU, of a compute capability, wants fixed head dimensions."""
    dim_qk, dim_v = (0, 0) if capability is None else head_dim
    macros = [f"-DCOTTENTION_{call.upper()}", f"-DCOTTENTION_ELEMENT={ELEMENTS[element]}", f"-DCOTTENTION_DIM_QK={dim_qk}",
              f"-DCOTTENTION_DIM_V={dim_v}", f"-DCOTTENTION_MASK={mask}", f"-DCOTTENTION_SCALE={scale}"]
    extra = shlex.split(os.environ.get("COTTENTION_FLAGS", ""))
    if capability is None:
        native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
        flags = ["-std=c++20", "-O3", native, "-fopenmp", "-fPIC", "-fvisibility=hidden", "-shared"]
        return [*shlex.split(host_compiler()), *flags, *extra, *macros, f"-I{include_folder()}", str(SOURCE)]
    flags = ["-std=c++20", "-O3", f"-arch={architecture(capability)}", "-Xcompiler=-fPIC,-fvisibility=hidden", "--shared", "-x", "cu"]
    if os.environ.get("CXX"):
        flags += ["-ccbin", os.environ["CXX"]]
    return [*shlex.split(cuda_compiler()), *flags, *extra, *macros, f"-I{include_folder()}", str(SOURCE)]


def _say(text):
    if not os.environ.get("COTTENTION_QUIET"):
        print(f"cottention: {text}", file=sys.stderr, flush=True)


def compiled(words, *problem, **options):
    """The path of the compiled call, which is made where the cache has none. `words` say what it is."""
    arguments = command(*problem, **options)
    compiler = cuda_compiler() if options.get("capability") is not None else host_compiler()
    places = (f"-I{include_folder()}", str(SOURCE))  # their contents are in the hash
    what = "\0".join([sources_hash(), version_of(compiler), *(a for a in arguments if a not in places)])
    folder = cache_folder()
    path = folder / f"{problem[0]}-{hashlib.sha256(what.encode()).hexdigest()[:32]}.so"
    if path.is_file():
        _need_owned(folder)
        return path
    _make(folder)
    with _locked(path.with_suffix(".lock")):
        if not path.is_file():
            _compile(arguments, path, words, "ten seconds or more" if options.get("capability") is None else "minutes")
    return path


def _make(folder):
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CompilerError(f"compiled calls cannot be kept in {folder}: {error.strerror}. Remedy: COTTENTION_CACHE names another folder.") from error
    _need_owned(folder)


def _need_owned(folder):
    """What lies in the folder is executed."""
    if folder.stat().st_mode & stat.S_IWOTH:
        raise CompilerError(f"everyone may write to {folder}, whose files are executed. Remedy: chmod o-w, or COTTENTION_CACHE.")


@contextlib.contextmanager
def _locked(path):
    """One process at a time. The lock ends with the process that has it."""
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            fcntl.flock(file, fcntl.LOCK_UN)  # for a process forked meanwhile, too, which has the same lock


def _compile(arguments, path, words, duration):
    started = time.monotonic()
    _say(f"compiling {words}, once; this takes {duration}")
    handle, unfinished = tempfile.mkstemp(suffix=".so.new", dir=path.parent)
    os.close(handle)
    try:
        process = subprocess.run([*arguments, "-o", unfinished], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if process.returncode != 0:
            raise CompilerError(f"{shlex.join(arguments)} fails:\n{process.stderr.strip()[-4000:]}")
        os.chmod(unfinished, 0o755)
        os.replace(unfinished, path)
    finally:
        pathlib.Path(unfinished).unlink(missing_ok=True)
    _say(f"compiled {words} in {time.monotonic() - started:.1f} s")


_libraries = {}
_locks = {}
_locks_lock = threading.Lock()


def forget_locks():
    """In a process that was forked: a thread that is compiling, and would free its lock, did not come along."""
    global _locks, _locks_lock
    _locks, _locks_lock = {}, threading.Lock()


def library(call, element, mask, scale, head_dim=None, capability=None):
    """The compiled call, loaded. Threads that want the same wait for the one that compiles it."""
    key = (call, element, mask, scale, head_dim, capability)
    found = _libraries.get(key)
    return found if found is not None else _load(key)


def _load(key):
    with _locks_lock:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        if key in _libraries:
            return _libraries[key]
        call, element, mask, scale, head_dim, capability = key
        where = "" if capability is None else f", head dims {head_dim[0]} x {head_dim[1]}, {architecture(capability)}"
        words = f"{call} for {element}, {mask}, scale {scale}{where}"
        path = compiled(words, call, element, mask, scale, head_dim=head_dim, capability=capability)
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError:  # of a machine with other libraries, or cut short: compiled once more
            path.unlink(missing_ok=True)
            loaded = ctypes.CDLL(str(compiled(words, call, element, mask, scale, head_dim=head_dim, capability=capability)))
        loaded.cottention_call.argtypes = [ctypes.c_char_p]
        loaded.cottention_reason.restype = ctypes.c_char_p
        if capability is not None:
            loaded.cottention_workspace_bytes.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t)]
        _libraries[key] = loaded
        return loaded

#!/usr/bin/env python3
"""Tells whether two states of the sources make the same machine code of every kernel.

usage: machine_code.py record NVCC ROOT FILE [--arch ARCH]... [--jobs N] [--source SOURCE]...
       machine_code.py compare FILE FILE
       machine_code.py self-test COMPILER

`record` compiles the sources of tests/cuda_compile below ROOT (or those named) for each ARCH (default sm_80 and sm_90a)
and writes a hash of the machine code of every kernel. `compare` fails unless both files have the same hashes, source by
source; names of kernels do not count, so renamed types compare equal.
"""
import argparse
import collections
import concurrent.futures
import hashlib
import json
import pathlib
import struct
import subprocess
import sys
import tempfile


def kernels(cubin):
    """The machine code of each kernel in an ELF file: {mangled name: bytes}."""
    if cubin[:5] != b"\x7fELF\x02":
        raise ValueError("not a 64-bit ELF file")
    offset, = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = []
    for i in range(count):
        name, _, _, _, start, length = struct.unpack_from("<IIQQQQ", cubin, offset + i * size)
        sections.append((name, start, length))
    names = sections[names_index][1]
    found = {}
    for name, start, length in sections:
        text = cubin[names + name:cubin.index(b"\0", names + name)].decode()
        if text.startswith(".text."):
            found[text[len(".text."):]] = cubin[start:start + length]
    return found


def hashes_of(command):
    """Of what COMMAND, which lacks the name of its output, compiles."""
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "compiled"
        subprocess.run([*command, "-o", str(output)], check=True)
        return sorted(hashlib.sha256(code).hexdigest()[:16] + f" {len(code)}" for code in kernels(output.read_bytes()).values())


def compilation(nvcc, root, source, arch):
    return [nvcc, "-std=c++20", "-O3", f"-arch={arch}", "-cubin", "-DCOTTENTION_TEST_WIDE", f"-I{root}/include", f"-I{root}/tests",
            f"-I{root}/tests/cuda_compile", str(root / "tests/cuda_compile" / source)]


def record(options):
    root = pathlib.Path(options.root).resolve()
    sources = options.source or sorted(p.name for p in (root / "tests/cuda_compile").glob("*.cu") if p.name != "wide.cu")
    jobs = [(source, arch) for arch in options.arch or ["sm_80", "sm_90a"] for source in sources]
    result = {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        futures = {pool.submit(hashes_of, compilation(options.nvcc, root, source, arch)): f"{source} {arch}"
                   for source, arch in jobs}
        for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
            result[futures[future]] = future.result()
            print(f"\r{done} of {len(jobs)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    pathlib.Path(options.file).write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


def compare(options):
    return differences(*(json.loads(pathlib.Path(f).read_text(encoding="utf-8")) for f in (options.before, options.after)))


def differences(before, after):
    faults = 0
    for key in sorted(before.keys() | after.keys()):
        old, new = (collections.Counter(x.get(key, [])) for x in (before, after))
        gone, came = old - new, new - old
        if gone or came:
            faults += 1
            print(f"{key}: {sum(gone.values())} of {sum(old.values())} kernels differ: "
                  f"{sorted(x.split()[1] for x in gone.elements())} bytes became {sorted(x.split()[1] for x in came.elements())}")
    total = sum(len(x) for x in after.values())
    print(f"{len(after)} compilations, {total} kernels: " + ("the same machine code" if not faults else f"{faults} compilations differ"))
    return 1 if faults else 0


def self_test(options):
    """Functions of the host stand for kernels: renamed ones are the same, changed ones are not."""
    def of(text):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder) / "source.cpp"
            source.write_text(text, encoding="utf-8")
            return {"source": hashes_of([options.compiler, "-O1", "-c", "-ffunction-sections", str(source)])}

    one = of("int first(int x) { return x + 1; } int second(int x) { return 3 * x; }")
    sound = differences(one, of("int other(int x) { return 3 * x; } int one(int x) { return x + 1; }")) == 0
    found = differences(one, of("int first(int x) { return x + 2; } int second(int x) { return 3 * x; }")) == 1
    fewer = differences(one, of("int first(int x) { return x + 1; }")) == 1
    return 0 if sound and found and fewer and len(one["source"]) == 2 else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("record")
    one.add_argument("nvcc"), one.add_argument("root"), one.add_argument("file")
    one.add_argument("--arch", action="append")
    one.add_argument("--jobs", type=int, default=2)
    one.add_argument("--source", action="append")
    one.set_defaults(run=record)
    two = commands.add_parser("compare")
    two.add_argument("before"), two.add_argument("after")
    two.set_defaults(run=compare)
    three = commands.add_parser("self-test")
    three.add_argument("compiler")
    three.set_defaults(run=self_test)
    options = parser.parse_args()
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""`./run test`, once the machine has what it needs: each stage is a preset of CMakePresets.json named test-*, built and tested in
build/*. Its options are those of ./run help, and CXX names the compiler."""
import argparse
import concurrent.futures
import os
import pathlib
import platform
import re
import subprocess
import sys
import time
import xml.etree.ElementTree

import pypi

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
# Lines of ctest's that say nothing new: tests that start or pass, and its own summary.
QUIET = re.compile(r" Start +\d+: | Passed +[\d.]+ sec|^\d+% tests passed|^Total Test|^Test project|^Internal ctest|^Label Time Summary"
                   r"|^nvcc +=|^No tests were found|^The following tests|^Errors while running"
                   r"|^\s*\d+ - .*\((Failed|Skipped|Timeout)\)$|^ *$")


def say(text):
    print(f"==> {text}", flush=True)


def switch(value):
    return "ON" if value else "OFF"


class Stages:
    """Runs stages, and counts what came of their tests."""

    def __init__(self, options):
        self.options, self.passed, self.failed, self.skipped = options, 0, 0, 0

    def run(self, name, title, *definitions, target="all", compiler=None):
        """Builds the preset test-NAME with these definitions, and runs its tests. Target "": it is configured alone."""
        started = time.monotonic()
        say(f"{title}: building")
        command = [ROOT / "run", "build", name, target, "--preset", f"test-{name}",
                   f"-DCOTTENTION_WERROR={switch(self.options.strict)}", *definitions]
        if subprocess.run(command, env={**os.environ, "CXX": compiler or os.environ["CXX"]}).returncode != 0:
            say(f"{title}: did not build")
            self.failed += 1
            return
        say(f"{title}: testing")
        results = BUILD / name / "results.xml"
        results.unlink(missing_ok=True)
        self.test(name, results)
        if not results.exists() or results.stat().st_size == 0:
            say(f"{title}: ctest wrote no results")
            self.failed += 1
            return
        counts = xml.etree.ElementTree.parse(results).getroot().attrib
        tests, failures = int(counts["tests"]), int(counts["failures"])
        skips = int(counts["skipped"]) + int(counts["disabled"])
        self.passed += tests - failures - skips
        self.failed += failures
        self.skipped += skips
        say(f"{title}: {tests - failures - skips} of {tests} passed in {time.monotonic() - started:.0f} s")

    def test(self, name, results):
        """Only what failed is shown; the counts come from the file of results."""
        command = ["ctest", "--preset", f"test-{name}", "-j", str(len(os.sched_getaffinity(0))), "--output-junit", results]
        if self.options.filter:
            command += ["-R", self.options.filter]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace") as ctest:
            for line in ctest.stdout:
                if not QUIET.search(line.rstrip("\n")):
                    print(line, end="", flush=True)

    def skip(self, text):
        say(text)
        self.skipped += 1


def thread_sanitizer_runner():
    """What programs built with ThreadSanitizer must be started with, as a CMake list; None if they do not run at all. Its older
    versions stop where the kernel scatters addresses widely, unless told not to."""
    probe = BUILD / "thread_sanitizer_probe"
    BUILD.mkdir(exist_ok=True)
    compiled = subprocess.run([os.environ["CXX"], "-fsanitize=thread", "-x", "c++", "-", "-o", probe], input="int main() {}",
                              text=True)
    if compiled.returncode != 0:
        return None
    for runner in ([], ["setarch", platform.machine(), "-R"]):
        try:
            if subprocess.run([*runner, probe], capture_output=True).returncode == 0:
                return ";".join(runner)
        except FileNotFoundError:
            pass
    return None


def nvcc_stage(stages, wide):
    """What nvcc makes of the kernels: no spills, no warnings, a table of registers."""
    try:
        nvcc = pypi.nvcc()
    except pypi.Missing as missing:
        print(missing, flush=True)
        stages.skip("nvcc: none on the PATH, and none to be had from PyPI; skipped")
        return
    try:
        nvrtc = pypi.nvrtc(nvcc)
    except pypi.Missing as missing:
        print(missing, flush=True)
        nvrtc = ""
    try:
        nvdisasm = pypi.nvdisasm()
    except pypi.Missing as missing:
        print(missing, flush=True)
        nvdisasm = ""
    try:
        nccl = pypi.nccl(nvcc)
    except pypi.Missing as missing:
        print(missing, flush=True)
        nccl = ""
    tables = BUILD / "nvcc/tests/cuda_compile"
    for table in tables.glob("*.json"):
        table.unlink()
    os.environ["NVCC_CCBIN"] = os.environ["CXX"]  # compiles what is not for GPUs
    stages.run("nvcc", "nvcc", f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DCOTTENTION_NVRTC={nvrtc}",
               f"-DCOTTENTION_NVDISASM={nvdisasm}", f"-DNCCL_ROOT={nccl}", f"-DCOTTENTION_CUDA_WIDE={wide}", target="")
    found = sorted(tables.glob("*.json"))
    if found:
        subprocess.run([sys.executable, ROOT / "tests/checks/spill_check.py", "--table", *found])


def python_stage(stages, environment):
    """examples/python under the newest PyTorch. Its calls are compiled anew only where the headers are other ones."""
    if stages.options.filter and not re.search(stages.options.filter, "python"):
        return
    started = time.monotonic()
    try:
        interpreter = environment.result()
    except (pypi.Missing, OSError) as missing:  # a full disk, too
        print(missing, flush=True)
        stages.skip("Python: no PyTorch to be had from PyPI; skipped")
        return
    say("Python: testing")
    folder = BUILD / "python-tests"
    folder.mkdir(exist_ok=True)
    results = folder / "results.xml"
    results.unlink(missing_ok=True)
    try:
        os.environ["CUDA_HOME"] = str(pypi.nvcc().parents[1])
    except pypi.Missing:
        pass
    subprocess.run([interpreter, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-n", str(len(os.sched_getaffinity(0))),
                    f"--junitxml={results}", ROOT / "tests/python"],
                   env={**os.environ, "COTTENTION_CACHE": str(folder / "cache"), "COTTENTION_QUIET": "1", "OMP_WAIT_POLICY": "passive",
                        "PYTHONDONTWRITEBYTECODE": "1"})
    if not results.exists():
        say("Python: pytest wrote no results")
        stages.failed += 1
        return
    suites = [suite.attrib for suite in xml.etree.ElementTree.parse(results).getroot().iter("testsuite")]
    tests, failures, skips = (sum(int(suite[name]) for suite in suites for name in names.split())
                              for names in ("tests", "failures errors", "skipped"))
    stages.passed += tests - failures - skips
    stages.failed += failures
    stages.skipped += skips
    say(f"Python: {tests - failures - skips} of {tests} passed in {time.monotonic() - started:.0f} s")


def main():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for option in ("--quick", "--strict", "--wide"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("--filter", default="")
    options = parser.parse_args()
    stages = Stages(options)
    wide = switch(options.wide)
    conan = ""
    if not options.quick:
        # Mostly waits for the network, so it goes on beside the first builds.
        python = concurrent.futures.ThreadPoolExecutor(1).submit(pypi.python)
        try:
            conan = pypi.install(pypi.CONAN)
        except pypi.Missing as missing:
            print(missing, flush=True)
    stages.run("release", "Release", f"-DCOTTENTION_EMULATED_WIDE={wide}", f"-DCOTTENTION_CONAN={conan}")
    if not options.quick:
        stages.run("asan", "AddressSanitizer and UndefinedBehaviorSanitizer")
        runner = thread_sanitizer_runner()
        if runner is None:
            stages.skip("ThreadSanitizer: does not run on this machine, skipped")
        else:
            stages.run("tsan", "ThreadSanitizer", f"-DCMAKE_CROSSCOMPILING_EMULATOR={runner}")
        stages.run("clang", "clang++", compiler="clang++")
        nvcc_stage(stages, wide)
        python_stage(stages, python)
    if stages.passed + stages.failed == 0:
        sys.exit(f"run: no test matches {options.filter}")
    skipped = f", {stages.skipped} skipped" if stages.skipped else ""
    print(f"{stages.passed} passed, {stages.failed} failed{skipped}")
    sys.exit(stages.failed > 0)


if __name__ == "__main__":
    main()

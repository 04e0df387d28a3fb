#!/usr/bin/env python3
"""That code for the host calls no __device__ function.

usage: host_code_check.py NVCC INCLUDE_DIR SOURCE
       host_code_check.py --self-test NVCC

nvcc refuses such a call where it sees it. In a template, where the function depends on the arguments, it says nothing: the
function is compiled for the host with a body that calls exit, a constructor or destructor with one that calls free. The
library calls neither. SOURCE is compiled for nvcc's oldest architecture, which has the least code.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

BODIES_CALL = {"exit", "free"}
FAULTS = """
struct S {
  __device__ S() {}
  __host__ __device__ S(int) {}
  __device__ static int by_lambda() { return 1; }
  __device__ int by_both() const { return 2; }
  __device__ __forceinline__ static int inlined() { return 4; }
  __host__ __device__ int right() const { return 3; }
};
template <class T> __device__ T by_template(T x) { return x; }
template <class T> __host__ __device__ int both() { return T(1).by_both(); }
template <class T> int in_place() { return T::inlined(); }
template <class F> int call(F f) { return f(); }
template <class T> int host() {
  T made;
  return made.right() + by_template(T(1)).right() + both<T>() + in_place<T>() + call([] { return T::by_lambda(); });
}
int main() { return host<S>(); }
"""
FOUND = {
    "S::S()": ["int host<S>()"],
    "S::by_lambda()": ["host<S>()::{lambda()#1}::operator()() const"],
    "S::by_both() const": ["int both<S>()"],
    "S by_template<S>(S)": ["int host<S>()"],
    "int in_place<S>()": ["int host<S>()"],
}


def device_functions(nvcc, source, *options):
    """Those that code for the host calls, and for each of them who does. Of one that is always inlined, its caller."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = pathlib.Path(folder) / "host.o"
        # Without optimisation every function that is called is there by its name.
        subprocess.run([nvcc, "-std=c++20", "-Werror=all-warnings", "-Xcompiler=-O0", *options, "-c", source, "-o", compiled],
                       check=True)
        text = subprocess.run(["objdump", "-dr", compiled], check=True, text=True, capture_output=True).stdout
    text = subprocess.run(["c++filt"], input=text, check=True, text=True, capture_output=True).stdout
    calls = {}
    for line in text.splitlines():
        function, called = re.match(r"[0-9a-f]+ <(.*)>:$", line), re.search(r"\sR_\w+\t(.*?)(?:[-+]0x[0-9a-f]+)?$", line)
        if function:
            calls[function[1]] = of_this = set()
        elif called:
            of_this.add(called[1])
    if "main" not in calls:
        sys.exit(f"objdump shows no main:\n{text[:2000]}")
    return {name: sorted(caller for caller in calls if name in calls[caller])
            for name in calls if calls[name] & BODIES_CALL}


def self_test(nvcc):
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "faults.cu"
        source.write_text(FAULTS, encoding="utf-8")
        found = device_functions(nvcc, source)
    print(found)
    return found != FOUND


def main():
    if sys.argv[1] == "--self-test":
        sys.exit(self_test(sys.argv[2]))
    nvcc, include_dir, source = sys.argv[1:]
    found = device_functions(nvcc, source, "-I", include_dir)
    for name, callers in found.items():
        print(f"a __device__ function, or one for the host that such is inlined into:\n  {name}\ncalled by", *callers, sep="\n  ")
    print(f"{len(found)} calls of device functions in code for the host")
    sys.exit(bool(found))


main()

#!/usr/bin/env python3
"""Headers with one fault each, which the emulator must find in the kernel that is compiled with them.

    faults.py INCLUDE OUTPUT NAME...

For each fault, OUTPUT/NAME gets a copy of the header of the folder INCLUDE that has the fault, at the same path, and a fault.hpp that
says what is to be reported. The names must be those of all faults."""
import dataclasses
import pathlib
import sys


@dataclasses.dataclass
class Fault:
    header: str  # of cottention/sm90/
    right: str  # what stands there once
    wrong: str
    report: str  # a part of what the emulator says


ABSORB = """\
  state.template absorb<!R::normalizes_all_operands>(
      buffer.b, buffer.c, factors.terms[factor_place.index], [&](const std::uint32_t(&c)[4][4]) {
        if constexpr (tells) factors.tell(factor_place, are_finite<typename R::element>(c));
      });
"""

FAULTS = {
    # H is published without being shown to the asynchronous proxy.
    "no_fence": Fault(
        "walk.cuh",
        "        device::fence_proxy_async();\n        storage.state.barriers.arrive_full(state_place);\n",
        "        storage.state.barriers.arrive_full(state_place);\n",
        "no fence_proxy_async has followed"),
    # Buffers that nothing has filled are waited for until they are empty.
    "wrong_parity": Fault(
        "pipeline.cuh",
        "    device::mbarrier_wait(empty + place.index, place.parity ^ 1);\n",
        "    device::mbarrier_wait(empty + place.index, place.parity);\n",
        "deadlock: "),
    # H is released after a wait that leaves the products which read it in flight.
    "state_released_early": Fault(
        "walk.cuh",
        "      device::wgmma_wait<1>();\n",
        "      device::wgmma_wait<2>();\n",
        "read by products of warp "),
    # Terms are released before the state's products have read them.
    "terms_released_early": Fault(
        "reduce.cuh",
        f"{ABSORB}  terms.barriers.arrive_empty(term_place);\n",
        f"  terms.barriers.arrive_empty(term_place);\n{ABSORB}",
        "read by products of warp "),
    # Rows are loaded to a buffer from which the output is still being stored.
    "rows_released_early": Fault(
        "pipeline.cuh",
        "      device::cp_async_bulk_wait_read<0>();\n",
        "",
        "read by stores of warp "),
    # Blocks of eight rows of an operand lie further apart than its descriptor says.
    "wrong_stride": Fault(
        "tiles.cuh",
        "    return device::matrix_descriptor(this, 16, eight_rows, device::Swizzle::bytes_128) + step * 32;\n",
        "    return device::matrix_descriptor(this, 16, eight_rows / 2, device::Swizzle::bytes_128) + step * 32;\n",
        "wrong answer"),
}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main():
    include, output = (pathlib.Path(folder) for folder in sys.argv[1:3])
    if sorted(sys.argv[3:]) != sorted(FAULTS):
        sys.exit(f"faults.py: there are {', '.join(FAULTS)}")
    for name, fault in FAULTS.items():
        header = pathlib.Path("cottention/sm90") / fault.header
        text = (include / header).read_text(encoding="utf-8")
        if text.count(fault.right) != 1:
            sys.exit(f"faults.py: {name}: {header} has {text.count(fault.right)} times, not once:\n{fault.right}")
        write(output / name / header, text.replace(fault.right, fault.wrong))
        write(output / name / "fault.hpp", f'inline constexpr const char* expected_report = "{fault.report}";\n')


if __name__ == "__main__":
    main()

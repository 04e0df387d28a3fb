#!/usr/bin/env python3
"""Headers with one fault each, which the emulator must find in the kernel that is compiled with them.

    faults.py INCLUDE OUTPUT NAME...
    faults.py --together INCLUDE OUTPUT

For each fault of Walk, OUTPUT/NAME gets a copy of the header of the folder INCLUDE that has the fault, at the same path, and a fault.hpp
that says what is to be reported. The names must be those of all these faults.

With --together: the faults of the other kernels, for one program. Each gets copies of all headers of the engine, in a namespace and in a
folder named after it, and OUTPUT/faults.hpp lists the kernels."""
import dataclasses
import pathlib
import re
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

PUBLISH = """\
      state.publish(to);
      device::fence_proxy_async();
"""
ABSORB_QUERIES = """\
      d.template absorb<Block::bounds_factors>(queries.y, queries.x, queries.terms);
"""
RELEASE_QUERIES = """\
      storage.queries.barriers.arrive_empty(at.queries(params.dq.row_group));
"""
ABSORB_QUERIES_OF_KEYS = """\
      d.for_each_part([&](auto& part) {
        part.template absorb<Block::bounds_factors>(queries.y, queries.x, queries.terms);
      });
"""
RELEASE_QUERIES_OF_KEYS = """\
      storage.queries.barriers.arrive_empty(place);
"""
LOAD_KEYS = """\
    if constexpr (output == Output::dv)
      load_row_factors(keys(at).terms);
    else
      rows.x.load(keys(at).x);  // it takes no registers before
"""
RELEASE_KEYS = """\
    storage.keys.barriers.arrive_empty(at.keys());
"""
START_KEYS = """\
    start_out(out, rows);
    finish(out);
    storage.d_barriers.arrive_empty(at.state());
"""

# By kernel; Apply is that of a call that is not split, which sums as Reduce does.
TOGETHER = {
    "Gradient": {
        # S, or D, is published without being shown to the asynchronous proxy.
        "no_fence_of_s": Fault("gradient.cuh", PUBLISH, PUBLISH.replace("device::", "if (&to != &storage.s) device::"),
                               "no fence_proxy_async has followed"),
        "no_fence_of_d": Fault("gradient.cuh", PUBLISH, PUBLISH.replace("device::", "if (&to != &storage.d) device::"),
                               "no fence_proxy_async has followed"),
        # Likewise a tile that TMA stores.
        "no_fence_of_outputs": Fault(
            "gradient_part.cuh",
            "    store_rows(buffer, out);\n    device::fence_proxy_async();\n",
            "    store_rows(buffer, out);\n",
            "no fence_proxy_async has followed"),
        # Keys are used once they are loaded, before their factors are written.
        "measured_skipped": Fault(
            "gradient.cuh",
            "        storage.keys.wait_measured(at.keys());\n",
            "        storage.keys.barriers.wait_full(at.keys());\n",
            "data race: "),
        # D is released before the products that read it are finished.
        "state_released_early": Fault(
            "gradient_part.cuh",
            START_KEYS,
            "    start_out(out, rows);\n    storage.d_barriers.arrive_empty(at.state());\n    finish(out);\n",
            "read by products of warp "),
        # Queries are released before the products of D have read them, keys before warps have loaded their rows.
        "queries_released_early": Fault("gradient.cuh", ABSORB_QUERIES + RELEASE_QUERIES, RELEASE_QUERIES + ABSORB_QUERIES,
                                        "write by copies of warp "),
        "keys_released_early": Fault("gradient_part.cuh", LOAD_KEYS + RELEASE_KEYS, RELEASE_KEYS + LOAD_KEYS, "data race: "),
        # The tile of an output is written while its rows are still being stored.
        "outputs_written_early": Fault(
            "gradient_part.cuh",
            "    if (lane_index() == 0) device::cp_async_bulk_wait_read<0>();\n",
            "",
            "read by stores of warp "),
        # States are taken for published from the first chunk on, and so are those of the chunk before.
        "wrong_parity": Fault("row_pairs.cuh", "return {0, chunks % 2};", "return {0, 1 - chunks % 2};", "wrong answer"),
    },
    "KeyGradients": {
        # D is published without being shown to the asynchronous proxy.
        "no_fence_of_d_of_keys": Fault(
            "key_gradients.cuh",
            "        device::fence_proxy_async();\n        storage.d_barriers.arrive_full(at.state());\n",
            "        storage.d_barriers.arrive_full(at.state());\n",
            "no fence_proxy_async has followed"),
        # Whether g is finite is read before it is told.
        "told_early": Fault(
            "row_pairs.cuh",
            "    device::mbarrier_wait(barriers + place.index, place.parity);\n    const auto found",
            "    const auto found",
            "data race: "),
        # An output is written to the memory of keys that the other warpgroup has not read.
        "wrong_parity_of_keys": Fault(
            "key_gradient_part.cuh",
            "    device::mbarrier_wait(&storage.keys_read, at.chunks % 2);\n",
            "    device::mbarrier_wait(&storage.keys_read, 1 - at.chunks % 2);\n",
            "read by products of warp "),
        # Queries are released before the products of D have read them.
        "queries_of_keys_released_early": Fault("key_gradients.cuh", ABSORB_QUERIES_OF_KEYS + RELEASE_QUERIES_OF_KEYS,
                                                RELEASE_QUERIES_OF_KEYS + ABSORB_QUERIES_OF_KEYS, "write by copies of warp "),
    },
    "KeyGradientApply": {
        # D is published without being shown to the asynchronous proxy.
        "no_fence_of_whole_d": Fault(
            "key_gradient_apply.cuh",
            "    d.publish(storage.d);\n    device::fence_proxy_async();\n",
            "    d.publish(storage.d);\n",
            "no fence_proxy_async has followed"),
        # Keys are loaded to a buffer from which an output is still being stored.
        "keys_loaded_early": Fault(
            "key_gradient_part.cuh",
            "    if (lane_index() == 0) device::cp_async_bulk_wait_read<0>();\n",
            "",
            "read by stores of warp "),
        # Keys are used once they are loaded, before their factors are written.
        "measured_keys_skipped": Fault(
            "key_gradient_part.cuh",
            "    storage.keys.wait_measured(at.keys());\n",
            "    storage.keys.barriers.wait_full(at.keys());\n",
            "data race: "),
    },
    "Apply": {
        # H is published without being shown to the asynchronous proxy.
        "no_fence_of_h": Fault(
            "apply.cuh",
            "      state.publish(storage.state, storage.exponents);\n      device::fence_proxy_async();\n",
            "      state.publish(storage.state, storage.exponents);\n",
            "no fence_proxy_async has followed"),
        # Rows beyond the end are cleared without being shown to it.
        "no_fence_of_zeros": Fault(
            "reduce.cuh",
            "      clear_rows(terms.c, valid);\n      device::fence_proxy_async();\n",
            "      clear_rows(terms.c, valid);\n",
            "no fence_proxy_async has followed"),
        # Terms are added before their factors are written.
        "factors_skipped": Fault("reduce.cuh", "  factors.barriers.wait_full(factor_place);\n", "", "data race: "),
        # The output is stored before all warps have written it.
        "stored_early": Fault("apply.cuh", "      sync_first_group();  // the output is in its buffer\n", "", "data race: "),
    },
}


def faulty(name, fault, header):
    """The text of a header with its fault."""
    text = header.read_text(encoding="utf-8")
    if text.count(fault.right) != 1:
        sys.exit(f"faults.py: {name}: {header} has {text.count(fault.right)} times, not once:\n{fault.right}")
    return text.replace(fault.right, fault.wrong)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def file_of(kernel):
    return re.sub(r"\B([A-Z])", r"_\1", kernel).lower() + ".cuh"


def write_together(include, output):
    lists = []
    for kernel, faults in TOGETHER.items():
        calls = []
        for name, fault in faults.items():
            own = f"sm90_{name}"
            for header in sorted((include / "cottention/sm90").glob("*.cuh")):
                text = faulty(name, fault, header) if header.name == fault.header else header.read_text(encoding="utf-8")
                write(output / "cottention" / own / header.name, re.sub(r"\bsm90\b", own, text))
            lists.insert(0, f"#include <cottention/{own}/{file_of(kernel)}>\n")
            calls.append(f'  f.template operator()<cottention::{own}::{kernel}<X, tiling>>("{name}", "{fault.report}");\n')
        lists.append(f"\ntemplate <class X, cottention::Tiling tiling, class F>\nvoid for_each_fault_of_{kernel}(F f) {{\n")
        lists += [*calls, "}\n"]
    write(output / "faults.hpp", "#pragma once\n\n" + "".join(lists))


def main():
    if sys.argv[1] == "--together":
        write_together(*(pathlib.Path(folder) for folder in sys.argv[2:]))
        return
    include, output = (pathlib.Path(folder) for folder in sys.argv[1:3])
    if sorted(sys.argv[3:]) != sorted(FAULTS):
        sys.exit(f"faults.py: there are {', '.join(FAULTS)}")
    for name, fault in FAULTS.items():
        header = pathlib.Path("cottention/sm90") / fault.header
        write(output / name / header, faulty(name, fault, include / header))
        write(output / name / "fault.hpp", f'inline constexpr const char* expected_report = "{fault.report}";\n')


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Holds the tree to one vocabulary: refuses retired words, and a type name that means two things.

usage: words_check.py ROOT | --self-test

Retired words are refused in include/, tests/, bench/, examples/ and docs/. A type that is defined at namespace scope may not
have the name of a type in another folder of include/cottention, unless SHARED_NAMES lists it with a reason.
"""
import collections
import pathlib
import re
import sys
import tempfile

FOLDERS = ("include", "tests", "bench", "examples", "docs")
HEADERS = ("include",)  # of a word that has another meaning elsewhere
SUFFIXES = {".h", ".hpp", ".cuh", ".cpp", ".cu", ".py", ".md", ".txt", ".cmake"}
# Results keep the words of the day they were measured on; the others quote or list retired words.
EXEMPT = ("bench/results/", "examples/char_lm/text/", "docs/CHANGELOG.md", "docs/words.md", "words_check.py")

# Word, folders that refuse it, what to say instead. A word is letters, digits and "_"; "*" stands for any further ones.
RETIRED = [
    ("afresh", FOLDERS, "opaque, of an index behind an optimisation barrier; again"),
    ("manieth", FOLDERS, "n-th"),
    ("finds_anew", FOLDERS, "recomputes, opaque"),
    ("LogSum", HEADERS, "ScaleGrad"),
    ("few_blocks", HEADERS, "low_occupancy"),
    ("Presence", HEADERS, "ValidRows"),
    ("images", HEADERS, "partial_states"),
    ("image_bytes", FOLDERS, "partial_bytes"),
    ("store_image", FOLDERS, "store_partial"),
    ("Cuts", HEADERS, "SplitRule"),
    ("Role", HEADERS, "Operand"),
    ("scaled_left", FOLDERS, "scaled_a"),
    ("right_operand", FOLDERS, "b_operand"),
    ("as_they_are", FOLDERS, "unscaled"),
    ("measure_in_memory", FOLDERS, "measure_global_row"),
    ("squares_of_rows", FOLDERS, "sum_sq_of_rows"),
    ("squares_off", FOLDERS, "squared_distance"),
    ("units_in_rounds", FOLDERS, "padded_vecs"),
    ("of_this_depth", FOLDERS, "select_by_warp_k"),
    ("weighing_warp", FOLDERS, "weight_warp"),
    ("ask_position", FOLDERS, "begin_load_position"),
    ("receive_position", FOLDERS, "finish_load_position"),
    ("ask_properties", FOLDERS, "query_properties"),
    ("without_asking", FOLDERS, "default_shared_bytes"),
    ("joint_*", HEADERS, "fused_backward, fused"),
    ("Joint*", HEADERS, "FusedBackward, Gradient"),
    ("few_blocks_recurrence", FOLDERS, "low_occupancy_recurrence"),
    ("tames_all", FOLDERS, "normalizes_all_operands"),
    ("tame_row", FOLDERS, "rescale_row"),
    ("measure_rows_in_memory", FOLDERS, "rescale_and_measure_global_rows"),
    ("read_lengths", FOLDERS, "measure_rows"),
    ("bound_lengths", FOLDERS, "bound_norms"),
    ("count_present", FOLDERS, "count_valid"),
    ("warps_across", FOLDERS, "warps_n"),
    ("warps_deep", FOLDERS, "warps_k"),
    ("rows_apart", FOLDERS, "splits_m"),
    ("depth_index", FOLDERS, "warp_k"),
    ("RowTile", HEADERS, "TileAB"),
    ("ValueTile", HEADERS, "TileC"),
    ("SplitBlock", HEADERS, "SplitFragment"),
    ("FiniteWatch", HEADERS, "FiniteCheck"),
    ("load_image", FOLDERS, "load_partial"),
    ("image_elements", FOLDERS, "partial_elements"),
    ("goes_through_norm", FOLDERS, "has_norm_backward"),
    ("projects_itself", FOLDERS, "fuses_norm_backward"),
    ("unprojected", FOLDERS, "grad_normalized"),
    ("RecurrencePlan", HEADERS, "SplitPlan"),
    ("shortest_piece", HEADERS, "min_piece_rows"),
    ("longest_piece", HEADERS, "max_piece_rows"),
    ("row_parts", FOLDERS, "m_blocks"),
    ("walked_length", FOLDERS, "walk_length"),
    ("turn_bytes", HEADERS, "bank_cycle_bytes"),
    ("least_capability", FOLDERS, "min_compute_capability"),
    ("remembered_devices", FOLDERS, "cached_devices"),
    # Functions of device/ have PTX's names.
    ("copy_async_16", FOLDERS, "cp_async_16"),
    ("commit_copies", FOLDERS, "cp_async_commit"),
    ("wait_copies", FOLDERS, "cp_async_wait"),
    ("commit_stores", FOLDERS, "cp_async_bulk_commit"),
    ("wait_stores", FOLDERS, "cp_async_bulk_wait"),
    ("load_tile", FOLDERS, "tma_load"),
    ("store_tile", FOLDERS, "tma_store"),
    ("fence_products", FOLDERS, "wgmma_fence"),
    ("commit_products", FOLDERS, "wgmma_commit"),
    ("wait_products", FOLDERS, "wgmma_wait"),
    ("claim_registers", FOLDERS, "setmaxnreg_inc"),
    ("release_registers", FOLDERS, "setmaxnreg_dec"),
    ("init_mbarrier", FOLDERS, "mbarrier_init"),
    ("arrive_mbarrier", FOLDERS, "mbarrier_arrive"),
    ("arrive_expecting", FOLDERS, "mbarrier_arrive_expect_tx"),
    ("wait_mbarrier", FOLDERS, "mbarrier_wait"),
    ("flip_shared", FOLDERS, "xor_shared"),
    ("largest_of_lanes", FOLDERS, "redux_max"),
    ("sync_threads", FOLDERS, "bar_sync"),
    ("arrive_threads", FOLDERS, "bar_arrive"),
    ("count_ones", FOLDERS, "popc"),
    ("inverse_square_root", FOLDERS, "rsqrt"),
    ("fused_pair", FOLDERS, "fma_pair"),
    ("approximate_exp2", FOLDERS, "ex2_approx"),
    ("approximate_log2", FOLDERS, "lg2_approx"),
]

# Type names that several folders define, each with the reason.
SHARED_NAMES = {
    "Apply": "the kernel of either engine, which the host names by the engine",
    "ChunkFactors": "factors of the current chunk in either engine, found by other threads",
    "Epilogue": "the epilogue of a recurrence in either engine",
    "GradientParams": "kernel: what every engine is given; sm90: that and its tensor maps",
    "RecurrenceParams": "kernel: what every engine is given; sm90: that and its tensor maps",
    "Reduce": "the kernel of either engine, which the host names by the engine",
    "ReduceStorage": "the shared memory of either engine's Reduce",
    "StateOf": "the state of a recurrence in either engine",
    "Tile": "rows of a chunk in shared memory, in the layout that an engine's instructions read",
    "Cursor": "cpu: the next piece of a thread; tile: a position in the order of chunks. Neither is seen by the other backend",
    "Gradient": "reference: the result of a gradient; sm80, sm90: the kernel that computes all of them",
    "Layout": "vocabulary: how a tensor lies in memory; cpu: how a state does",
    "Operand": "vocabulary: a tensor of a call in messages; sm80: a or b of a product, the word of PTX",
    "Output": "recurrence: which tensor a recurrence gives; reference: the results of a call; sm80: rows of out in a warp",
    "Pieces": "the pieces of a sequence on either backend, whose rules differ",
    "Roles": "which tensor is a, b or c: cpu resolves it at run time, kernel at compile time",
    "RowView": "the rows of a head on either backend",
    "State": "vocabulary: the state of a call; sm80, sm90: its accumulators in a block",
    "Walk": "the walk of either backend",
}

WORD = re.compile(r"\w+")
# Comments, strings, characters and directives.
NOISE = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])+'|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*",
                   re.DOTALL | re.MULTILINE)
TEMPLATE = re.compile(r"\btemplate\s*<.*?>\s*(?=struct|class|union|using|requires)", re.DOTALL)
TYPE = re.compile(r"\b(?:struct|class|union|enum(?:\s+class|\s+struct)?)\s+(?:\[\[.*?\]\]\s*|alignas\([^)]*\)\s*)*"
                  r"(\w+)\s*(?:final\s*)?(?::[^:]|$)", re.DOTALL)
ALIAS = re.compile(r"\busing\s+(\w+)\s*=(?!.*(?:::|template )\1\b)", re.DOTALL)  # one that keeps the name of its type adds no meaning
NAMESPACE = re.compile(r"\bnamespace\b[\w\s:]*$")


def types_of(text):
    """Names of the types that a header defines at namespace scope. A specialisation defines none."""
    names, scopes, statement = set(), [], ""
    # A digit separator is not the start of a character.
    for part in re.split(r"([{};])", NOISE.sub(" ", re.sub(r"(?<=\d)'(?=\d)", "", text))):
        if part not in ("{", "}", ";"):
            statement += part
            continue
        if all(scopes):  # no braces but those of namespaces
            found = TYPE.search(TEMPLATE.sub("", statement)) if part == "{" else None
            alias = ALIAS.search(statement) if part == ";" else None
            names.update(match.group(1) for match in (found, alias) if match)
        if part == "{":
            scopes.append(bool(NAMESPACE.search(statement)))
        elif part == "}" and scopes:
            scopes.pop()
        statement = ""
    return names


def retired_words(root):
    """Lines that have a retired word where it is refused."""
    problems = []
    for folder in FOLDERS:
        whole = {word: say for word, where, say in RETIRED if folder in where and not word.endswith("*")}
        starts = {word[:-1]: say for word, where, say in RETIRED if folder in where and word.endswith("*")}
        for file in sorted(p for p in (root / folder).rglob("*") if p.suffix in SUFFIXES and p.is_file()):
            path = file.relative_to(root).as_posix()
            if any(path.startswith(x) or path.endswith(x) for x in EXEMPT):
                continue
            text = file.read_text(encoding="utf-8", errors="replace")
            found = {word: whole[word] for word in whole.keys() & set(WORD.findall(text))}
            found.update((word, say) for start, say in starts.items() for word in WORD.findall(text) if word.startswith(start))
            if found:
                problems += [f"{path}:{number}: {word}: say {found[word]}" for number, line in enumerate(text.splitlines(), 1)
                             for word in WORD.findall(line) if word in found]
    return problems


def shared_names(root):
    """Types of one name in several folders."""
    headers, places = root / "include/cottention", collections.defaultdict(dict)
    for file in sorted(p for p in headers.rglob("*") if p.suffix in (".hpp", ".cuh") and p.is_file()):
        path = file.relative_to(headers)
        for name in types_of(file.read_text(encoding="utf-8")):
            places[name].setdefault(path.parts[0] if len(path.parts) > 1 else "the root", path.as_posix())
    return [f"{name}: a type in {' and in '.join(sorted(where.values()))}: rename one, or list it with a reason"
            for name, where in sorted(places.items()) if len(where) > 1 and name not in SHARED_NAMES]


def check(root):
    root = pathlib.Path(root)
    return retired_words(root) + shared_names(root)


def self_test():
    """Each fault, alone in a small tree, must be reported, and the tree without a fault must not."""
    sound = {
        "include/cottention/state.hpp":
            "#pragma once\n#define BRACE {\nnamespace cottention {\nstruct Forward;  // struct Comment {};\n"
            "template <class T = int>\nstruct [[nodiscard]] Shape : T { struct Nested {}; int x = 1'000; };\n"
            "enum class Kind : int { a };\nusing Alias = Shape<int>;\nvoid f() { struct Local {}; using Inside = int; }\n}\n",
        "include/cottention/cpu/walk.hpp":
            "namespace cottention::cpu {\nnamespace detail {\nclass Walker final {};\n}\nstruct Comment {};\nstruct Nested {};\n"
            "struct Local {};\nstruct Forward {};\nusing Inside = int;\nint afreshness;\n}\n",
        "include/cottention/tile/walk.cuh":
            "namespace cottention {\ntemplate <>\nstruct Shape<char> {};\ntemplate <class T>\nusing Walker = cpu::Walker<T>;\n"
            "template <class T>\nusing Alias = typename Kinds<T>::template Alias<T>;\n}\n",
        "docs/CHANGELOG.md": "`copy_async_16` is `cp_async_16`.\n",
        "tests/walk.cpp": "int joint_gradient;  // a word that only headers refuse\n",
    }
    faults = {
        "docs/words_of_old.md:1: afresh: say": {"docs/words_of_old.md": "Found afresh.\n"},
        "include/cottention/cpu/walk.hpp:2: joint_gradient: say": {"include/cottention/cpu/walk.hpp": "\nint joint_gradient;\n"},
        "tests/walk.cpp:1: copy_async_16: say": {"tests/walk.cpp": "x=1-copy_async_16(y);\n"},
        "examples/a.cu:1: rows_apart: say": {"examples/a.cu": "// rows_apart\n"},
        "bench/a.py:1: warps_deep: say": {"bench/a.py": "warps_deep = 1\n"},
        "Shape: a type in cpu/new.hpp and in state.hpp": {
            "include/cottention/cpu/new.hpp": "namespace cottention::cpu {\nstruct Shape {};\n}\n"},
        "Kind: a type in cpu/new.hpp and in state.hpp": {
            "include/cottention/cpu/new.hpp": "namespace cottention::cpu {\nvoid g() { if (1) {} }\nenum Kind { b };\n}\n"},
        "Alias: a type in state.hpp and in tile/new.cuh": {
            "include/cottention/tile/new.cuh": "namespace cottention::tile {\ntemplate <class T>\nusing Alias = T;\n}\n"},
        "Walker: a type in cpu/walk.hpp and in tile/new.cuh": {
            "include/cottention/tile/new.cuh": "namespace cottention::tile {\nstruct alignas(16) Walker {};\n}\n"},
    }
    missed = []
    for expected, change in [("", {}), *faults.items()]:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**sound, **change}.items():
                file = pathlib.Path(folder) / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            problems = check(folder)
        if not expected and problems:
            missed.append(f"a sound tree is refused: {problems}")
        if expected and not any(problem.startswith(expected) for problem in problems):
            missed.append(f"not found: {expected}; reported: {problems}")
    return missed


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    problems = self_test() if sys.argv[1] == "--self-test" else check(sys.argv[1])
    sound = "every fault is found" if sys.argv[1] == "--self-test" else "no retired word, and one meaning for every type name"
    print("\n".join(problems or [sound]))
    sys.exit(1 if problems else 0)


main()

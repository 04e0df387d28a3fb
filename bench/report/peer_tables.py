"""Tables of our rows beside PyTorch's, of runs on several machines side by side."""
import report
import sources
from gpu_tables import table

NONE = "\nNo result file of a run beside a current PyTorch has been committed.\n"
README_SHAPES = ("B", "C")
# Beside the named shapes, those of add_short_rows() in bench/cpu/attention.hpp. Sweeps would make the table hundreds of rows long.
SHORT = ("1x16x128x1024", "1x16x1024x1024", "4x16x128x256", "32x16x512x128", "64x16x32x64")
README_FORMS = {"softmax": "PyTorch, softmax (scaled_dot_product_attention)", "chunked": "PyTorch, chunked",
                "quadratic": "PyTorch, authors' quadratic form"}


def two_digits(milliseconds):
    return f"{milliseconds:.2f}" if milliseconds < 1 else f"{milliseconds:.1f}" if milliseconds < 10 else f"{milliseconds:,.0f}"


def processor(results):
    """The machine in a few words: names of virtual machines alone say little."""
    flags = results["cpu"]["flags"].split()
    vectors = next((words for flag, words in (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("asimd", "NEON")) if flag in flags), "")
    threads = results["threads"]
    return f"{results['cpu']['name']}, {vectors + ', ' if vectors else ''}{threads} thread{'s' if threads > 1 else ''}"


def torch_text(results):
    torch = results["torch"]
    libraries = ", ".join(f"{name} {version}" for name, version in torch.get("libraries", {}).items())
    return f"PyTorch {torch['torch']} ({libraries or torch['blas']}; {torch['cpu_capability']})"


def runs():
    """[(file, results)] of those that have a current PyTorch."""
    loaded = [(name, sources.load(name)) for name in sources.PEERS]
    return [(name, results) for name, results in loaded if "torch" in results.get("torch", {})]


def readme(page):
    """Milliseconds of one causal forward pass, for every machine."""
    header = ["machine, tokens, elements", "cottention", *README_FORMS.values()]
    lines = []
    for _, results in runs():
        for shape in README_SHAPES:
            for element in ("fp32", "bf16"):
                name = f"forward/{shape}/causal/{element}/threads:{results['threads']}"
                row = results["rows"].get(name, {})
                if "median" not in row:
                    continue
                peers = report.peers_of(results, name)
                lines.append([f"{processor(results)}; {report.SHAPES[shape][2]:,}; {element}", two_digits(1e3 * row["median"])]
                             + [two_digits(1e3 * peers[form]["median"]) if form in peers else "" for form in README_FORMS])
    return table(header, lines) if lines else NONE


def cells_of(results, name):
    """Of one machine: our time, the fastest peer's and which it is, and how many times as fast we are."""
    row = results["rows"].get(name.replace("threads:N", f"threads:{results['threads']}"), {})
    if "median" not in row:
        return ["", "", ""]
    peers = report.peers_of(results, name.replace("threads:N", f"threads:{results['threads']}"))
    best = min(peers, key=lambda form: peers[form]["median"], default=None)
    if best is None:
        return [two_digits(1e3 * row["median"]), "", ""]
    peer = peers[best]
    how = ", compiled" if peer.get("variant", "").endswith(", compiled") else ""
    times = peer["median"] / row["median"]
    return [two_digits(1e3 * row["median"]), f"{two_digits(1e3 * peer['median'])} ({best}{how})",
            f"{times:.1f}x" if times >= 1 else f"**{times:.2f}x**"]


def shown(name):
    call, shape = name.split("/")[:2]
    return call in ("forward", "forward_backward", "step") and (not report.is_spelled(shape) or shape in SHORT)


def compared_rows(results):
    """Names of the rows of the table that have a peer, without the number of threads."""
    return [name.rsplit("/", 1)[0] + "/threads:N" for name, row in results["rows"].items()
            if shown(name) and "median" in row and report.peers_of(results, name)]


def side_by_side(page):
    """Rows beside the fastest peer, softmax included, with three columns for each machine."""
    machines = runs()
    if not machines:
        return NONE
    said = "".join(f"{number}. {processor(results)}; {results['build']['compiler']}; {torch_text(results)}; {sources.link(name, page)}\n"
                   for number, (name, results) in enumerate(machines, 1))
    header = ["row"]
    for number in range(1, len(machines) + 1):
        header += [f"{number}: cottention, ms", "fastest peer, ms", "times as fast"]
    names = list(dict.fromkeys(name for _, results in machines for name in compared_rows(results)))
    lines = [[f"`{name.rsplit('/', 1)[0]}`"] + [cell for _, results in machines for cell in cells_of(results, name)] for name in names]
    return f"\n{said}" + table(header, lines)


def faster(page):
    """How many rows were compared, and those in which a peer takes less time than we do."""
    lines, compared = [], 0
    for name, results in runs():
        number, found = report.faster_peers(results)
        compared += number
        lines += [[f"`{row}`", form, f"{times:.2f} times as fast", sources.link(name, page)] for row, form, times in found]
    if not compared:
        return NONE
    if not lines:
        return f"\nIn none of the {compared} comparisons, softmax included, is a peer faster.\n"
    return f"\nOf {compared} comparisons, softmax included, a peer is faster in {len(lines)}:\n" + table(
        ["row", "peer", "", "result file"], lines)

"""The tables of examples/python, from committed result files: the two trainings, and what a call costs."""
import sources
from gpu_tables import table


def _row(words, values):
    return [words, *values]


def _lines(name):
    result = sources.load(name)
    models = [result["models"][kind] for kind in ("cosine", "softmax")]
    losses = [model["test"] for model in models]
    yield _row(f"`{result['what']}.py`: test loss, {result['loss']['unit']}", [f"{loss:.4f}" for loss in losses])
    yield _row("the same, cosine beside softmax", [f"{100 * (losses[0] / losses[1] - 1):+.1f}%", ""])
    yield _row("characters per second of training", [f"{model['tokens_per_second']:,}" for model in models])
    for length in (1024, 8192):
        rows = [row for form in ("cosine", "softmax") for row in result["attention"] if (row["form"], row["length"]) == (form, length)]
        yield _row(f"attention alone, {length:,} characters, forward + backward: peak memory, characters per second",
                   [f"{row['peak_bytes'] / 2**20:.1f} MiB, {row['tokens_per_second']:,}" for row in rows])


def trainings(page):
    """Both trainings' losses, speeds and costs, and where they ran."""
    gpt, bert = sources.load(sources.GPT), sources.load(sources.BERT)
    machine = gpt["machine"]
    generation = gpt["generation"]
    threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    load = max(result["machine"]["load_before"][0] for result in (gpt, bert))
    busy = f", with other programs at work (load {load:.0f})" if load > machine["cores"] else ""
    written = (f"{machine['cpu']} with {machine['cores']} cores ({machine['instructions']}), {threads}, PyTorch {machine['torch']}; "
               f"{gpt['seconds']:.0f} s and {bert['seconds']:.0f} s in all{busy}. "
               f"Generation: {generation['characters']} characters with {generation['state_bytes'][0]:,} bytes before them and "
               f"{generation['state_bytes'][1]:,} after; logits step by step and in parallel differ by "
               f"{generation['agreement']['relative_rms']:.1e} relative RMS. Result files: {sources.link(sources.GPT, page)}, "
               f"{sources.link(sources.BERT, page)}.")
    lines = [*_lines(sources.GPT), *_lines(sources.BERT)]
    return table(["", "cosine", "softmax"], lines) + f"\n{written}\n"


FORMS = ("C++", "Python", "softmax", "chunked", "chunked, compiled")


def calls(page):
    """Microseconds of a call from C++, through Python and of PyTorch's forms."""
    result = sources.load(sources.CALLS)
    lines = []
    for row in result["calls"]:
        which, shape = row["row"].split("/")
        us = {name: both["fastest"] for name, both in row["microseconds"].items()}
        taken = us.get("autograd", 0.0)
        lines.append([f"{which.replace('_', ' + ')} ({shape.replace('x', ', ')})", *(f"{us[name]:,.0f}" if name in us else "" for name in FORMS),
                      f"{taken:,.0f}", f"{row['us_more']:,.0f}", f"{row['times']:.2f}"])
    machine = result["machine"]
    written = (f"Microseconds, the fastest of {result['rounds']} turns; fp32, causal, (batch, heads, length, dim). {machine['cpu']}, "
               f"{machine['threads']} threads, PyTorch {machine['torch']}. Result file: {sources.link(sources.CALLS, page)}.")
    return table(["", *FORMS, "autograd alone", "Python, more", "times C++"], lines) + f"\n{written}\n"

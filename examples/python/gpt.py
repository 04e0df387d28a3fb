#!/usr/bin/env python3
"""Trains a causal language model of characters with cosine attention, and a softmax baseline: docs/python.md."""
import sys
import time

import torch

import training

DEFAULTS = {"steps": 800, "length": 256, "batch": 4, "dim": 96, "heads": 4, "layers": 2, "seed": 1, "lr": {"cosine": 1e-2, "softmax": 6e-3}}
QUICK = {"steps": 20, "length": 64, "batch": 4, "dim": 32, "heads": 2, "layers": 1}
AGREEMENT = 1e-5  # relative RMS difference of logits, in parallel and step by step


def batches(text, length, batch):
    """A function of a generator that yields (inputs, targets, None) from anywhere in the text."""
    def of(generator):
        while True:
            at = torch.randint(0, len(text) - length, (batch, 1), generator=generator)
            rows = text[at + torch.arange(length + 1)]
            yield rows[:, :-1], rows[:, 1:], None

    return of


def held_out_batches(text, length, batch):
    """All of the text that fills pieces of `length`."""
    pieces = (len(text) - 1) // length
    inputs, targets = (text[at:at + pieces * length].view(pieces, length) for at in (0, 1))
    return [(inputs[i:i + batch], targets[i:i + batch], None) for i in range(0, pieces, batch)]


def bytes_of(state):
    return sum(x.nbytes for recent, attention in state for x in (recent, *attention))


def agreement(model, tokens):
    """The logits of `tokens` [1, seq] in one pass against those step by step: relative RMS and greatest difference."""
    with torch.no_grad():
        parallel = model(tokens).double()
    state = model.state(1)
    steps = torch.cat([model.step(token, state) for token in tokens.split(1, dim=1)], dim=1).double()
    difference = steps - parallel
    return (difference.norm() / parallel.norm()).item(), difference.abs().max().item()


def write(model, prompt, count, seed):
    """The numbers of `count` characters after `prompt` [1, seq], and what was held in mind before and after them."""
    generator = torch.Generator().manual_seed(seed)
    state = model.state(1)
    for token in prompt.split(1, dim=1):
        logits = model.step(token, state)
    held, written = [bytes_of(state)], []
    for _ in range(count):
        chances = torch.softmax(logits[0, -1].cpu() / 0.7, dim=0)
        written.append(torch.multinomial(chances, 1, generator=generator).item())
        logits = model.step(torch.tensor([[written[-1]]], device=prompt.device), state)
    held.append(bytes_of(state))
    return written, held


def generate(model, vocabulary, text, chosen):
    """Generation's part of the result, printed as well."""
    tokens = text[:max(512, chosen.length)].view(1, -1).to(chosen.device)
    relative, greatest = agreement(model, tokens)
    prompt = vocabulary.encode("\n\n" if "\n" in vocabulary.number else chosen.characters[:1]).view(1, -1).to(chosen.device)
    started = time.monotonic()
    written, held = write(model, prompt, 40 if chosen.quick else 600, chosen.seed)
    seconds = time.monotonic() - started
    sample = vocabulary.decode(written)
    cache = 2 * 4 * chosen.layers * chosen.dim
    print(f"generation         {len(written) / seconds:,.0f} characters per second, one sequence, step by step")
    print(f"  state            {held[0]:,} bytes before {len(written)} characters, {held[1]:,} bytes after them")
    print(f"  KV cache         softmax would hold {cache:,} bytes for each character: more from {held[1] // cache + 1:,} characters on")
    print(f"  parallel = steps over {tokens.shape[1]} characters: logits differ by {relative:.1e} relative RMS (bound {AGREEMENT:.0e}), "
          f"{greatest:.1e} at most: {'ok' if relative <= AGREEMENT else 'TOO MUCH'}")
    print("sample\n  " + sample.strip().replace("\n", "\n  "))
    return {"characters": len(written), "characters_per_second": round(len(written) / seconds), "state_bytes": held,
            "kv_cache_bytes_per_character": cache, "sample": sample,
            "agreement": {"characters": tokens.shape[1], "relative_rms": relative, "greatest": greatest, "bound": AGREEMENT,
                          "holds": relative <= AGREEMENT}}


def main(arguments=None):
    started = time.monotonic()
    chosen = training.options("gpt", __doc__, DEFAULTS, QUICK, arguments)
    vocabulary = training.Vocabulary(chosen.characters)
    text = vocabulary.encode(chosen.characters)
    learned, validation, test = training.parts(text)
    result = training.begin(chosen, "gpt", vocabulary, f"{chosen.length} characters")
    runs = training.train(len(vocabulary), True, batches(learned, chosen.length, chosen.batch),
                          *(held_out_batches(part, chosen.length, 16) for part in (validation, test)), chosen)
    training.report(result, runs, "nats per character")
    result["generation"] = generate(runs["cosine"].model, vocabulary, test, chosen)
    training.finish(result, chosen, started)
    return 0 if result["generation"]["agreement"]["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())

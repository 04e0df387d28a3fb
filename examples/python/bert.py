#!/usr/bin/env python3
"""Trains a bidirectional model that fills in masked characters, with cosine attention, and a softmax baseline: docs/python.md."""
import re
import sys
import time

import torch

import training

DEFAULTS = {"steps": 600, "length": 192, "batch": 8, "dim": 96, "heads": 4, "layers": 2, "seed": 1, "lr": {"cosine": 1e-2, "softmax": 6e-3}}
QUICK = {"steps": 20, "length": 64, "batch": 4, "dim": 32, "heads": 2, "layers": 1}
MASKED = 0.15  # share of characters to be told; of these 80% are hidden, 10% replaced and 10% left


def pieces_of(text, length):
    """Paragraphs; those that are longer than `length` end at a sentence's end, or a word's, before it."""
    pieces = []
    for paragraph in text.split("\n"):
        while len(paragraph) > length:
            ends = [m.end() for m in re.finditer(r"[.!?;:]\"? ", paragraph[:length])] or [paragraph.rfind(" ", 0, length) + 1]
            end = ends[-1] or length
            pieces.append(paragraph[:end].rstrip())
            paragraph = paragraph[end:]
        pieces.append(paragraph)
    return [piece for piece in pieces if piece]


def masked_batch(pieces, vocabulary, generator):
    """(inputs, targets, mask) of pieces of unequal length: targets are -100 where nothing is to be told."""
    longest = max(map(len, pieces))
    rows = torch.full((len(pieces), longest), vocabulary.further["padding"])
    for row, piece in zip(rows, pieces):
        row[:len(piece)] = piece
    mask = rows != vocabulary.further["padding"]
    told = (torch.rand(rows.shape, generator=generator) < MASKED) & mask
    told[:, 0] |= ~told.any(dim=1)
    fate = torch.rand(rows.shape, generator=generator)
    others = torch.randint(0, len(vocabulary.characters), rows.shape, generator=generator)
    inputs = torch.where(told & (fate < 0.8), vocabulary.further["hidden"], rows)
    inputs = torch.where(told & (fate >= 0.9), others, inputs)
    return inputs, torch.where(told, rows, -100), mask


def batches(pieces, vocabulary, batch):
    def of(generator):
        while True:
            chosen = torch.randint(0, len(pieces), (batch,), generator=generator)
            yield masked_batch([pieces[i] for i in chosen], vocabulary, generator)

    return of


def held_out_batches(pieces, vocabulary, batch):
    """All of the pieces, always with the same characters masked."""
    generator = torch.Generator().manual_seed(0)
    return [masked_batch(pieces[i:i + batch], vocabulary, generator) for i in range(0, len(pieces), batch)]


def main(arguments=None):
    started = time.monotonic()
    chosen = training.options("bert", __doc__, DEFAULTS, QUICK, arguments)
    vocabulary = training.Vocabulary(chosen.characters, further=("hidden", "padding"))
    pieces = [vocabulary.encode(piece) for piece in pieces_of(chosen.characters, chosen.length)]
    learned, validation, test = training.parts(pieces)
    result = training.begin(chosen, "bert", vocabulary, f"paragraphs or parts of them, up to {chosen.length} characters")
    result["text"]["pieces"] = len(pieces)
    runs = training.train(len(vocabulary), False, batches(learned, vocabulary, chosen.batch),
                          *(held_out_batches(part, vocabulary, 16) for part in (validation, test)), chosen)
    training.report(result, runs, "nats per masked character")
    training.finish(result, chosen, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

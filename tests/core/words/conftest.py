"""A text encoder small enough for tests, which is no stand-in for a measured one (docs/words.md has those)."""

import zlib
from types import SimpleNamespace

import pytest
import torch

WIDTH, LENGTH, END = 96, 64, 1
ALIKE = {"handgun": "pistol", "revolver": "pistol"}     # this encoder knows them as nearly the same


def vector(word: str) -> torch.Tensor:
    own = torch.randn(WIDTH, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))
    return own if word not in ALIKE else vector(ALIKE[word]) + 0.2 * own


def encode_one(text: str) -> tuple[torch.Tensor, list[int]]:
    words = [word.strip(",.:;()") for word in text.lower().split()][:LENGTH - 1]
    ids = [2 + zlib.crc32(word.encode()) % 1_000_000 for word in words] + [END] * (LENGTH - len(words))
    tokens = torch.stack([*map(vector, words), *[vector("</s>")] * (LENGTH - len(words))])
    # Every token knows a little of its neighbours, and padding of the whole prompt, as in CLIP.
    mean = tokens[:len(words)].mean(0) if words else torch.zeros(WIDTH)
    return tokens + 0.2 * mean, ids


@pytest.fixture(scope="session")
def encode():
    def encode(texts):
        contexts, ids = zip(*map(encode_one, texts))
        context = torch.stack(contexts)
        return SimpleNamespace(context=context, tokens=torch.tensor(ids), pooled=context.mean(1)[:, :8],
                               mask=torch.ones(context.shape[:2], dtype=torch.bool))
    return encode


@pytest.fixture(scope="session")
def fitted(encode):
    """Of (concept, ...): a redirector each, fitted once."""
    from saferedir_core import Concept, fit_words

    made = {}

    def fitted(**settings):
        concept = Concept(**settings)
        if concept not in made:
            made[concept] = fit_words(encode, concept)
        return made[concept]
    return fitted

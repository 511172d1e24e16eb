"""Noisy in-context recall, as in MAD (Poli et al. 2024, arXiv 2403.17844): pairs of a key and its value, with noise tokens strewn in between."""

from functools import cached_property
from typing import Any

import numpy as np

from resbench.tasks.depth.generated import IGNORED, Examples, GeneratedTask, octave


class NoisyRecall(GeneratedTask):
    """A fresh map from keys to values per sequence, shown pair by pair; at a key that was shown before, the answer is its value.

    Keys come first in the vocabulary, then values, then noise tokens. Keys repeat at random, values may coincide; a token between pairs is noise
    with probability ``noise``, none stands inside a pair. Difficulty is how many tokens ago the key was last shown, in octaves. Chance is
    that of naming the value shown most often so far, which associates nothing, measured on simulated sequences; it is above 1 / values, since
    only some values are in a sequence.

    Args:
        keys: number of keys (MAD: 8).
        values: number of values (MAD: 8).
        noise_tokens: number of noise tokens (MAD: 16).
        noise: share of noise among the tokens outside pairs' values (MAD: 0.2).
    """

    name = "noisy-recall"
    difficulty_name = "distance"

    def __init__(
        self, keys: int = 8, values: int = 8, noise_tokens: int = 16, noise: float = 0.2, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.require({"keys": (keys, 1), "values": (values, 2), "noise_tokens": (noise_tokens, 1)})
        if not 0 <= noise < 1:
            raise ValueError(f"data.init_args.noise={noise}: expected a number from 0 up to, not including, 1")
        self.keys, self.values, self.noise_tokens, self.noise = keys, values, noise_tokens, noise
        self.vocab_size = keys + values + noise_tokens

    @cached_property
    def chance(self) -> float:
        found = self.simulated()
        values = np.arange(self.keys, self.keys + self.values)
        shown = np.cumsum(found.tokens[:, :, None] == values, axis=1)
        scored = found.targets != IGNORED
        return float((values[shown.argmax(-1)] == found.targets)[scored].mean())

    def settings(self) -> dict[str, Any]:
        return {
            "keys": self.keys,
            "values": self.values,
            "noise_tokens": self.noise_tokens,
            "noise": self.noise,
        }

    def generate(self, rng: np.random.Generator, count: int) -> Examples:
        length, rows = self.context_length, np.arange(count)
        mapping = self.keys + rng.integers(self.values, size=(count, self.keys))
        drawn_keys = rng.integers(self.keys, size=(count, length))
        drawn_noise = self.keys + self.values + rng.integers(self.noise_tokens, size=(count, length))
        noisy = rng.random((count, length)) < self.noise
        last = np.full((count, self.keys), -1, dtype=np.int64)
        open_key = np.full(count, -1, dtype=np.int64)  # the key whose value comes next; -1: none
        tokens = np.empty((count, length), dtype=np.int64)
        targets = np.full((count, length), IGNORED)
        distance = np.ones((count, length), dtype=np.int64)
        for t in range(length):
            answering = open_key >= 0
            noise = ~answering & noisy[:, t]
            asking = ~answering & ~noise
            key = np.where(answering, open_key, drawn_keys[:, t])
            tokens[:, t] = np.where(answering, mapping[rows, key], np.where(noise, drawn_noise[:, t], key))
            seen = asking & (last[rows, key] >= 0)
            targets[seen, t] = mapping[rows, key][seen]
            distance[seen, t] = t - last[rows, key][seen]
            last[rows[asking], key[asking]] = t
            open_key = np.where(asking, key, -1)
        return Examples(tokens, targets, octave(distance))

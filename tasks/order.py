"""The order in which training windows are visited: one keyed permutation per epoch, computed position by position.

A Feistel network over the smallest even number of bits that covers the windows, walked until it lands inside the range,
is a bijection of {0..n-1} that needs no memory, so that any position of an endless stream can be asked for directly:
resuming at batch one million costs the same as starting at zero.
"""

import hashlib

import numpy as np
import numpy.typing as npt

ROUNDS = 6


class WindowOrder:
    """A pseudo-random order of `windows` items, a different permutation in each epoch, fixed by `seed`.

    Args:
        windows: how many items one epoch visits, each exactly once.
        seed: equal seeds give equal orders, on every machine and for every model.
    """

    def __init__(self, windows: int, seed: int) -> None:
        assert windows >= 1
        self.windows = windows
        self.seed = seed
        self._half_bits = max(1, (max(windows - 1, 1).bit_length() + 1) // 2)

    def at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Window index in [0, windows) at each position >= 0 of the endless stream; shape and dtype of `positions`."""
        epochs, within = np.divmod(positions, self.windows)
        chosen = np.empty_like(within)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = self._permuted(within[here].astype(np.uint64), int(epoch)).astype(np.int64)
        return chosen

    def _permuted(self, index: npt.NDArray[np.uint64], epoch: int) -> npt.NDArray[np.uint64]:
        keys = self._round_keys(epoch)
        index = self._feistel(index, keys)
        # The network permutes a power of four of at most 4n items; following its cycle from an item inside the range
        # must come back into the range, and doing so keeps the map one-to-one.
        while (outside := index >= self.windows).any():
            index[outside] = self._feistel(index[outside], keys)
        return index

    def _feistel(self, index: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        half, mask = np.uint64(self._half_bits), np.uint64((1 << self._half_bits) - 1)
        left, right = index >> half, index & mask
        for offset, first, second in keys:
            # uint64 arithmetic wraps; the highest bits of a product with an odd constant depend on all bits below them.
            mixed = (right + offset) * first
            mixed ^= mixed >> np.uint64(32)
            mixed *= second
            left, right = right, left ^ (mixed >> (np.uint64(64) - half))
        return (left << half) | right

    def _round_keys(self, epoch: int) -> npt.NDArray[np.uint64]:
        """[ROUNDS, 3] uint64: an offset and two odd multipliers per round."""
        material = b"".join(
            hashlib.blake2b(f"{self.seed}/{epoch}/{i}".encode(), digest_size=24).digest() for i in range(ROUNDS)
        )
        keys = np.frombuffer(material, dtype="<u8").reshape(ROUNDS, 3).astype(np.uint64)
        keys[:, 1:] |= np.uint64(1)
        return keys

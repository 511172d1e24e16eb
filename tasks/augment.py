"""Standard augmentation of small images, a random crop after padding and a random flip, as a function of the position in the training stream.

What is done to the image at a position depends on (seed, position) alone: not on the batch, the rank, the worker, or where a run was resumed.
"""

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
"""[N, 3, H, W]"""


def random_bits(positions: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """64 bits for each position: the SplitMix64 finaliser (Steele, Lea & Flood 2014) over position and seed."""
    start = np.random.SeedSequence([seed, 0xC4A9]).generate_state(1, np.uint64)[0]
    mixed = (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + start
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def crop_and_flip(images: Images, positions: npt.NDArray[np.int64], seed: int, padding: int, flip: bool) -> Images:
    """Each image shifted by up to ``padding`` pixels either way, black coming in, and mirrored half of the time if ``flip``; a new array."""
    count, _, height, width = images.shape
    bits = random_bits(positions, seed)
    shifts = np.uint64(2 * padding + 1)
    down, right = (bits % shifts).astype(np.int64), ((bits >> np.uint64(20)) % shifts).astype(np.int64)
    mirrored = ((bits >> np.uint64(40)) & np.uint64(1)).astype(bool) & flip
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    columns = np.where(mirrored[:, None], np.arange(width)[::-1], np.arange(width)) + right[:, None]
    rows = np.arange(height) + down[:, None]
    # Advanced indices around a slice put their axes first: [N, H, W, 3].
    taken = padded[np.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(taken.transpose(0, 3, 1, 2))

"""The smallest network that a sweep can compile, with the real compiler, and what its trials find in the compiler's cache."""

import json
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor import cpu_vec_isa

from resbench.harness.fit import fit


class Bigrams(nn.Module):
    """Logits of the next token from the last one alone; no residual connections at all."""

    def __init__(self, scheme: Any, vocab_size: int, context_length: int) -> None:
        super().__init__()
        self.logits = nn.Embedding(vocab_size, vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits(tokens)


def train(argv: list[str], **arguments: Any) -> Any:
    """`fit`, which leaves ``cache.json`` in the output folder: how often the compiler found its graph, or did not."""
    # Trying out which vector instructions there are takes the C++ compiler longer than the network does.
    cpu_vec_isa.x86_isa_checker = list
    result = fit(argv, **arguments)
    output = Path(yaml.safe_load(Path(argv[1]).read_text())["output_dir"])
    (output / "cache.json").write_text(json.dumps(counters["aot_autograd"]))
    return result

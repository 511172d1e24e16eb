"""How a refusal looks in a terminal: its reasons, on one screen."""

from __future__ import annotations

from resbench.results.submission.reading import MOST_REASONS, Refused


def print_refusal(refused: Refused) -> None:
    """Print the reasons, one a line."""
    print(f"Refused, for {min(len(refused.reasons), MOST_REASONS)} reason(s):")
    for reason in refused.reasons:
        print(f"  {reason}")

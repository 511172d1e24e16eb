"""Conformance beside results: what `resbench check-scheme NAME --json FILE` (or ``--all``) found, as a badge of the scheme's rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path


def load_badges(files: Iterable[Path]) -> dict[str, str]:
    """Scheme -> ``passed/judged``, with the names of failed checks behind it; checks of one scheme in several files add up.

    Raises ValueError for a file that `check-scheme --json` did not write, OSError for one that cannot be read.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            for report in content if isinstance(content, list) else [content]:
                outcomes = found.setdefault(str(report["scheme"]), {"passed": [], "failed": [], "not applicable": []})
                for check in report["checks"]:
                    outcomes[check["outcome"]].append(str(check["name"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file}: not a file that `resbench check-scheme NAME --json FILE` wrote ({type(error).__name__}: {error})"
            ) from error
    return {scheme: _badge(outcomes["passed"], outcomes["failed"]) for scheme, outcomes in found.items()}


def _badge(passed: list[str], failed: list[str]) -> str:
    count = f"{len(passed)}/{len(passed) + len(failed)}"
    return f"{count}, fails: {', '.join(dict.fromkeys(failed))}" if failed else count

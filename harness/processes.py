"""Birth and death of a process, made short: together they cost as much as a small run.

Imports make millions of objects that stay. Looking for garbage among them takes a fifth of the time of importing, and again with every later
collection; taking them all down at the end takes another second and a half, for memory that the kernel gets back at once anyway.
"""

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


@contextmanager
def importing(*, for_good: bool = False) -> Iterator[None]:
    """Import inside what is to stay: the garbage collector is off meanwhile, and nothing is imported for nobody.

    ``for_good``: the collector never looks at it later either. Only for processes that end without taking their libraries down, where some complain.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with _unless_asked_for("scipy.signal", has=("hamming",)):
            yield
    finally:
        if for_good:
            gc.freeze()
        if collecting:
            gc.enable()


@contextmanager
def _unless_asked_for(name: str, has: tuple[str, ...]) -> Iterator[None]:
    """Put the import of a module off until something in it is asked for, other than whether it has these attributes.

    torchmetrics imports scipy.signal, half a second with all it needs, only to see whether it has a function called ``hamming``.
    """
    if name in sys.modules:
        yield
        return
    stand_in = _StandIn(name, has)
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


class _StandIn(ModuleType):
    """Becomes the module it stands for, to everyone, with the first attribute that somebody wants of it."""

    def __init__(self, name: str, has: tuple[str, ...]) -> None:
        super().__init__(name)
        self.__spec__ = None
        self.__dict__.update(dict.fromkeys(has))

    def __getattr__(self, attribute: str) -> Any:
        name = self.__name__
        if attribute.startswith("__"):  # Python's own questions about a module
            raise AttributeError(attribute)
        if sys.modules.get(name) is self:
            del sys.modules[name]
        return getattr(import_module(name), attribute)


def end_quickly(program: Callable[[], int]) -> int:
    """Run a whole program and return its exit code. Once the process's threads and exit handlers are done it ends, libraries and all, at once.

    A program that ends with an exception ends as ever.
    """
    codes: list[int] = []
    atexit.register(
        _leave, codes
    )  # the last registered runs first, so that libraries still to be imported keep their handlers
    try:
        codes.append(program())
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            codes.append(end.code or 0)
        raise
    return codes[0]


def _leave(codes: list[int]) -> None:
    if not codes:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads any more, and the interpreter knows what to do then
        return
    os._exit(codes[0])

"""`resbench list`: every plugin with the distribution it comes from and whether it loads, and the ladder of sizes."""

import inspect

from rich.console import Console
from rich.table import Table

from resbench.architectures.registry import BrokenPlugin, Kind, Plugin, available, bare_import_hint
from resbench.architectures.sizes import SIZES

KINDS: tuple[tuple[Kind, str], ...] = (("scheme", "Schemes"), ("task", "Tasks"), ("backbone", "Backbones"))


def print_listing(console: Console) -> None:
    """Print it. A plugin that does not load has its error in its row; the others are not affected."""
    for kind, title in KINDS:
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in ("name", "from", "what it is"):
            table.add_column(column, overflow="fold")
        for plugin in available(kind).values():
            what = describe(plugin)
            table.add_row(plugin.name, f"{plugin.distribution} {plugin.version}", what)
        console.print(table)
        console.print()
    console.print("[bold]Sizes[/bold] (parameters of attention and MLPs; embeddings and connections come on top)")
    table = Table(box=None, pad_edge=False)
    for column in ("name", "parameters", "depth", "width", "heads", "MLP width"):
        table.add_column(column, justify="left" if column == "name" else "right")
    for size in SIZES.values():
        table.add_row(size.name, f"{size.params:,}", *map(str, (size.depth, size.width, size.n_heads, size.ffn_width)))
    console.print(table)


def describe(plugin: Plugin) -> str:
    """First line of the class's documentation, or why it does not load."""
    try:
        target = plugin.load()
    except BrokenPlugin as error:
        cause = error.__cause__
        return f"BROKEN: {type(cause).__name__}: {cause}{bare_import_hint(cause)}" if cause else f"BROKEN: {error}"
    return (inspect.getdoc(target) or target.__qualname__).strip().splitlines()[0]

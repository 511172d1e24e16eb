"""The subcommands that belong to one run: fit, list, ui."""

import argparse
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from resbench.harness.invocation import command, store_options
from resbench.harness.store import default_tracking_uri, open_store, sqlite_path

if TYPE_CHECKING:
    from resbench.harness.fit import RunResult


def fit(argv: list[str]) -> int:
    """`resbench fit`: train one model and say how it went."""
    if argv in (["-h"], ["--help"]):
        print(FIT_HELP)
    from resbench.harness.fit import fit as run

    result = run(argv)
    if result.run_id and os.environ.get("LOCAL_RANK", "0") == "0":
        print(_summary(result))
    return 0


FIT_HELP = """\
Train one model: every key below can stand in a YAML file given with --config, and be overridden on the command line.
Schemes, backbones and tasks go by their names from `resbench list`; their arguments follow the name:

  resbench fit --model.scheme mhc --model.scheme.n_streams 4 --model.backbone.size 1m --budget.tokens 1000000

--model.scheme.help mhc explains a scheme's arguments, --print_config shows the whole configuration.
"""


def _accuracy(result: "RunResult") -> str:
    if result.accuracy is None:
        return ""
    chance = f" (chance: {result.chance_accuracy:.1%})" if result.chance_accuracy is not None else ""
    return f", accuracy {result.accuracy:.1%}{chance}"


def _summary(result: "object") -> str:
    from resbench.harness.fit import RunResult

    assert isinstance(result, RunResult)
    lines = [f"run {result.run_id}: {result.outcome} after {result.tokens:,} tokens"]
    if result.reason:
        lines.append(f"  {result.reason}")
    if result.val_loss is not None and result.bits_per_byte is None:
        lines.append(f"  validation loss {result.val_loss:.4f} nats{_accuracy(result)}")
    elif result.val_loss is not None:
        known = result.unigram_bits_per_byte
        beside = f" (token frequencies alone: {known:.3f})" if known is not None else ""
        lines.append(
            f"  validation loss {result.val_loss:.4f} nats per token, {result.bits_per_byte:.3f} bits per byte{beside}"
        )
    lines.append(
        f"  logged to {result.tracking_uri}; look at it with `{command('ui', *store_options(result.tracking_uri))}`"
    )
    return "\n".join(lines)


def list_plugins(argv: list[str]) -> int:
    """`resbench list`: what there is to compare, and what does not load."""
    parser = argparse.ArgumentParser(
        prog="resbench list", description="Schemes, tasks and backbones, where each comes from, and the model sizes."
    )
    parser.parse_args(argv)
    from rich.console import Console

    from resbench.harness.listing import print_listing

    print_listing(Console(width=None if sys.stdout.isatty() else 160))
    return 0


def ui(argv: list[str]) -> int:
    """`resbench ui`: MLflow's server on loopback, on the store that `resbench fit` writes to by default."""
    parser = argparse.ArgumentParser(prog="resbench ui", description="Open MLflow's user interface on the runs.")
    parser.add_argument(
        "--tracking-uri", help="store to show (default: MLFLOW_TRACKING_URI, else the database in the output directory)"
    )
    parser.add_argument("--output-dir", default="runs", help="output directory of the runs (default: %(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="0 takes any free one (default: %(default)s)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; this machine only by default (%(default)s)"
    )
    options = parser.parse_args(argv)
    uri = options.tracking_uri or default_tracking_uri(options.output_dir)
    if uri.startswith(("http://", "https://")):
        print(f"{uri} is a server already: open it in a browser")
        return 0
    open_store(uri, must_exist=True)
    port = _free_port(options.host, options.port)
    database = sqlite_path(uri)
    root = (database.resolve().parent if database else Path(options.output_dir).resolve()) / "artifacts"
    command = [sys.executable, "-m", "mlflow", "server", "--host", options.host, "--port", str(port)]
    command += ["--backend-store-uri", uri, "--default-artifact-root", root.as_uri(), "--workers", "1"]
    print(f"MLflow shows {uri}\nat http://{options.host}:{port}  (Ctrl-C ends it)", flush=True)
    return _serve(command)


def _free_port(host: str, port: int) -> int:
    """The port, or any free one for 0. Raises OSError when it is taken or cannot be used."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise OSError(
                f"cannot listen on {host}:{port}: {error}. Choose another --port (0 takes any free one)"
            ) from error
        return int(probe.getsockname()[1])


def _serve(command: list[str]) -> int:
    """Run the server until it ends or Ctrl-C; it has workers of its own, which must not outlive it."""
    # Without being told not to, the server starts eight more processes, for judging traces of language models; runs have none.
    ours = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = {**ours, **os.environ}
    server = subprocess.Popen(command, start_new_session=True, env=environment)

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        return server.wait()
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
        return 0
    finally:
        _end_group(server)
        signal.signal(signal.SIGTERM, before)


def _end_group(server: "subprocess.Popen[bytes]") -> None:
    """Ask the server's processes to end, and make them when that takes too long or the user asks again."""
    for how, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(server.pid, how)
            server.wait(patience)
        except ProcessLookupError:
            return
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            continue

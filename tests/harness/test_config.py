"""Configurations: registry names, YAML and command line, and what a mistake in them looks like."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from resbench.harness.config import parse
from resbench.harness.fit import describe

Argv = Callable[..., list[str]]
MHC = "resbench.architectures.schemes.mhc.ManifoldHyperConnections"
HC = "resbench.architectures.schemes.hc.HyperConnections"


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return f"--config={path}"

    return write


def scheme_of(*argv: str) -> dict[str, object]:
    scheme: dict[str, object] = parse(list(argv)).resolved()["model"]["scheme"]
    return scheme


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model.scheme=mhc", "--model.scheme.n_streams=2"],
        ["--model.scheme", "mhc", "--model.scheme.n_streams", "2"],
        ["--model.scheme=mhc", "--model.scheme.init_args.n_streams=2"],
        ["--model.scheme={class_path: mhc, init_args: {n_streams: 2}}"],
        [f"--model.scheme={MHC}", "--model.scheme.n_streams=2"],
    ],
)
def test_a_scheme_goes_by_its_name_on_the_command_line(arguments: list[str]) -> None:
    scheme = scheme_of(*arguments)
    assert scheme["class_path"] == MHC
    assert scheme["init_args"]["n_streams"] == 2  # type: ignore[index]
    assert scheme["init_args"]["sinkhorn_iterations"] == 20  # type: ignore[index]


def test_names_work_in_files_and_the_command_line_overrides_them(file: Callable[[str], str]) -> None:
    config = file(
        "model: {scheme: {class_path: mhc, init_args: {n_streams: 2}}, backbone: {class_path: transformer, init_args: {size: 400k}}}\n"
        "data: python-source\nbudget: {tokens: 500_000}"
    )
    cli = parse([config, "--model.scheme.sinkhorn_iterations=3", "--data.batch_size=2"])
    resolved = cli.resolved()
    assert (
        resolved["model"]["scheme"]["init_args"] | {"n_streams": 2, "sinkhorn_iterations": 3}
        == resolved["model"]["scheme"]["init_args"]
    )
    assert resolved["model"]["backbone"]["init_args"]["size"] == "400k"
    assert resolved["data"]["init_args"]["batch_size"] == 2
    assert cli.budget.tokens == 500_000
    assert scheme_of(config, "--model.scheme=hc")["class_path"] == HC
    assert scheme_of(file("model: {scheme: hc}"))["class_path"] == HC


@pytest.mark.parametrize(
    "match", ["hc", HC, "{class_path: hc, init_args: {n_streams: 3}}"], ids=["name", "path", "with arguments"]
)
def test_names_work_inside_a_scheme_that_takes_a_scheme(file: Callable[[str], str], match: str) -> None:
    in_file = scheme_of(file(f"model: {{scheme: {{class_path: wide, init_args: {{match: {match}}}}}}}"))
    typed = scheme_of("--model.scheme=wide", f"--model.scheme.match={match}")
    assert in_file == typed
    assert typed["init_args"]["match"]["class_path"] == HC  # type: ignore[index]


def test_the_resolved_configuration_reproduces_itself(tmp_path: Path) -> None:
    first = parse(["--model.scheme=wide", "--model.scheme.match=mhc", "--seed_everything=3"])
    path = tmp_path / "config.yaml"
    path.write_text(first.dump())
    again = parse([f"--config={path}"])
    assert again.resolved() == first.resolved()
    data: object = again.datamodule
    assert getattr(data, "seed", None) == 3


def test_the_budget_is_whole_steps(argv: Argv) -> None:
    facts = describe(argv("--budget.tokens=129", "--trainer.accumulate_grad_batches=2"))
    assert (facts["steps"], facts["tokens"]) == (1, 256)
    assert describe(argv("--budget.tokens=5121"))["steps"] == 41


def test_describe_counts_without_data_or_memory(tmp_path: Path) -> None:
    # 1b parameters would not fit a laptop; the corpus does not exist.
    (tmp_path / "empty").mkdir()
    facts = describe(
        ["--model.backbone.size=1b", "--model.scheme=mhc", f"--data.root={tmp_path}/empty", "--data.context_length=8"]
    )
    # attention and MLPs 998,400,000; embedding and output 2 x 257 x 1664; norms and connections on top
    assert facts["params_total"] > 998_400_000 + 2 * 257 * 1664 + facts["params_connection"]
    # per sublayer: phi has n^2 + 2n = 24 rows of 4 x 1664, three alphas, 24 biases
    assert facts["params_connection"] == 60 * (24 * 4 * 1664 + 3 + 24)


MISTAKES: dict[str, tuple[str, list[str]]] = {
    "unknown scheme": ("model: {scheme: mch}", ["mine.yaml", "model.scheme", "'mch'", "Did you mean 'mhc'", "resnet"]),
    "unknown task": ("data: pyton-source", ["mine.yaml", "data", "python-source"]),
    "unknown size": (
        "model: {backbone: {class_path: transformer, init_args: {size: 2m}}}",
        ["size='2m'", "100k", "1b"],
    ),
    "unknown key": (
        "model: {learning_rat: 1}",
        ["mine.yaml", "model.learning_rat", "Did you mean 'learning_rate'", "weight_decay"],
    ),
    "unknown section": ("modle: {learning_rate: 1}", ["mine.yaml", "'modle'", "Did you mean 'model'", "budget"]),
    "unknown scheme argument": (
        "model: {scheme: {class_path: mhc, init_args: {n_stream: 2}}}",
        ["mine.yaml", "model.scheme.init_args.n_stream", "Did you mean 'n_streams'", "sinkhorn_iterations"],
    ),
    "an argument of another scheme": (
        "model: {scheme: {class_path: resnet, init_args: {n_streams: 2}}}",
        ["mine.yaml", "n_streams", "ResNet takes no arguments"],
    ),
    "unknown task argument": (
        "data: {class_path: python-source, init_args: {contextlength: 2}}",
        ["mine.yaml", "data.init_args.contextlength", "Did you mean 'context_length'"],
    ),
    "wrong type": ("model: {learning_rate: fast}", ["mine.yaml", "model.learning_rate", "'fast'", "float"]),
    "wrong type in a scheme": (
        "model: {scheme: {class_path: mhc, init_args: {n_streams: many}}}",
        ["mine.yaml", "model.scheme.init_args.n_streams", "'many'", "int"],
    ),
    "wrong choice": (
        "model: {scheme: {class_path: mhc, init_args: {order: any}}}",
        ["mine.yaml", "model.scheme.init_args.order", "'any'", "columns-first"],
    ),
    "no streams": (
        "model: {scheme: {class_path: mhc, init_args: {n_streams: 0}}}",
        ["mine.yaml: model.scheme.init_args.n_streams=0", "at least 1"],
    ),
    "width not divisible": (
        "model: {backbone: {class_path: transformer, init_args: {width: 100, n_heads: 3}}}",
        ["mine.yaml: model.backbone.init_args.width=100", "n_heads=3"],
    ),
    "unknown size in a file": (
        "model: {backbone: {class_path: transformer, init_args: {size: 2m}}}",
        ["mine.yaml: model.backbone.init_args.size='2m'", "100k, 400k, 1m"],
    ),
    "out of range": ("budget: {tokens: 0}", ["mine.yaml: budget.tokens=0", "at least 1"]),
    "negative rate": ("model: {learning_rate: -1}", ["mine.yaml: model.learning_rate=-1", "positive"]),
    "decided by us": ("trainer: {max_steps: 5}", ["mine.yaml", "trainer.max_steps", "budget.tokens"]),
    "data seed": (
        "data: {class_path: python-source, init_args: {seed: 5}}",
        ["mine.yaml", "data.init_args.seed", "seed_everything"],
    ),
    "not YAML": ("model: [", ["mine.yaml", "not valid YAML", "line 1"]),
    "not a mapping": ("- model", ["mine.yaml", "expected a mapping"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_key_file_and_what_exists(file: Callable[[str], str], mistake: str) -> None:
    text, expected = MISTAKES[mistake]
    with pytest.raises(ValueError, match=re.escape(expected[0])) as error:
        describe([file(text)])
    for part in expected:
        assert part in str(error.value)
    assert len(str(error.value).splitlines()) <= 6


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.learning_rat=1"], ["model.learning_rat", "learning_rate"]),
        (["--trainer.foo=1"], ["trainer.foo", "gradient_clip_val"]),
        (["--model.scheme=mhc", "--model.scheme.n_stream=2"], ["n_stream", "n_streams"]),
        (
            ["--data=text", "--data.text_colum=body"],
            ["unknown key 'data.init_args.text_colum'", "column", "data_files"],
        ),
        (["--data", "text", "--data.colunm", "body"], ["unknown key 'data.init_args.colunm'", "Did you mean 'column'"]),
        (["--config=/no/such/file.yaml"], ["/no/such/file.yaml"]),
        (["--trainer.precision=fp7"], ["trainer.precision", "fp7", "bf16-mixed"]),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], expected: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(expected[0])) as error:
        describe(arguments)
    for part in expected:
        assert part in str(error.value)


def test_the_command_line_is_not_blamed_on_the_file_it_overrides(file: Callable[[str], str]) -> None:
    text = "model: {scheme: {class_path: mhc, init_args: {n_streams: 0}}}"
    with pytest.raises(ValueError, match="^n_streams=-1: expected at least 1"):
        describe([file(text), "--model.scheme.n_streams=-1"])


def test_every_key_of_the_resolved_configuration_is_documented_yaml(argv: Argv) -> None:
    text = parse(argv()).dump()
    assert set(yaml.safe_load(text)) >= {
        "seed_everything",
        "model",
        "data",
        "budget",
        "every",
        "trainer",
        "tracking",
        "output_dir",
    }

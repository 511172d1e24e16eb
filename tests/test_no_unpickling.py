"""Nothing reads data in a way that executes what is in them: checkpoints, caches and exported runs may come from a shared folder."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("harness", "architectures", "kernels", "tasks", "sweeps", "results")
FORBIDDEN = {
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "cloudpickle.load",
    "cloudpickle.loads",
    "dill.load",
    "dill.loads",
    "joblib.load",
    "marshal.load",
    "marshal.loads",
    "shelve.open",
    "pd.read_pickle",
    "pandas.read_pickle",
    "yaml.unsafe_load",
}


def unsafe(source: str) -> list[str]:
    """Calls in a source text that unpickle, with their lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if (
            name in FORBIDDEN
            or (
                name == "yaml.load" and "SafeLoader)" not in source
            )  # a loader of one's own has to be built on the safe one
            or (name == "torch.load" and given.get("weights_only") != "True")
            or given.get("allow_pickle", "False") != "False"
            or given.get("weights_only", "True") not in ("True", "None")
        ):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_no_module_unpickles() -> None:
    found = {
        str(path.relative_to(ROOT)): calls
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (calls := unsafe(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_the_search_finds_what_it_looks_for() -> None:
    for bad in (
        "pickle.loads(x)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "trainer.fit(model, weights_only=False)",
        "pd.read_pickle(path)",
        "yaml.load(text, yaml.Loader)",
    ):
        assert len(unsafe(bad)) == 1, bad
    assert unsafe("torch.load(path, weights_only=True); np.load(path); json.loads(text)") == []

"""The arrows between parts turn one way, nothing turns in a circle, and arrays have one backend.

Read from the source by `ast`, so an import inside a function counts too; only what stands under
`if TYPE_CHECKING:` does not.
"""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "minideepseek"
PARTS = [
    "errors", "autograd", "layers", "model", "training",
    "reasoning", "exercises", "equations", "book", "cli",
]  # fmt: skip
# Imports inside a function that close a circle within one part, each with its reason.
DEFERRED = {
    ("minideepseek.model.transformer", "minideepseek.model.checkpoint"):
        "DeepSeekV3.from_pretrained and save_pretrained are methods, as users expect",
}  # fmt: skip
ALONE = {"minideepseek", "minideepseek.__main__"}  # the table of contents, and `python -m`

# Arrays that are tensors' belong to the backend: `np.` on one would fail on a GPU, or copy it away.
# These files work on host arrays; every one has its reason.
HOST_ONLY = {
    "autograd/backend.py": "is the backend",
    "autograd/gradcheck.py": "compares in float64 on the host",
    "autograd/differences.py": "compares in float64 on the host",
    "model/checkpoint.py": "files hold host arrays",
    "model/safetensors.py": "files hold host arrays",
    "model/tokenizer.py": "texts become host arrays of ids",
    "model/transformer.py": "checks ids and masks on the host before they are sent",
    "model/decoding.py": "is for models on the host, and says so",
    "model/generate.py": "samples on the host, the same for every device",
    "model/speculative.py": "accepts and draws on the host, the same for every device",
    "model/drafter.py": "keeps texts and lengths on the host",
    "training/data.py": "batches are drawn on the host",
    "training/trainer.py": "adds up the experts' counts, which are read to the host once a step",
    "training/rundir.py": "files hold host arrays",
    "training/language.py": "creates generators, picks samples",
    "training/report.py": "draws numbers that were logged",
    "training/figures.py": "draws numbers that were logged",
    "training/scales.py": "draws numbers that were logged",
    "reasoning/tasks.py": "poses problems and scores texts on the host",
    "reasoning/countdown.py": "draws problems on the host",
    "reasoning/addition.py": "draws problems on the host",
    "reasoning/r1/sft.py": "packs samples on the host before they are sent",
    "reasoning/r1/sources.py": "draws samples on the host",
    "reasoning/r1/model.py": "puts prompts together on the host",
    "reasoning/r1/pipeline.py": "picks samples on the host",
    "reasoning/recipe.py": "poses probes and reads answers on the host",
    "reasoning/stages.py": "makes text and hashes weights on the host",
    "reasoning/journey.py": "creates generators",
    "reasoning/jobs.py": "creates generators",
    "reasoning/evaluate.py": "counts what answers are worth",
    "reasoning/grpo/plan.py": "draws problems on the host",
    "reasoning/grpo/trainer.py": "judges completions and picks rows on the host",
    "reasoning/grpo/sampler.py": "draws on the host, the same for every device",
    "exercises/bugs.py": "words small host arrays",
    "exercises/gradients.py": "checks in float64 on the host",
    "exercises/properties.py": "checks in float64 on the host",
    "cli/language.py": "reads prompts, creates generators",
    "cli/machine.py": "creates generators",
}
# What a learner gets is NumPy, and so are its checks.
LEARNERS = ("exercises/problems/", "exercises/zoo/")
FORMULAS = "equations/"  # of the papers, transcribed


def name_of(path):
    """The dotted name of a source file."""
    parts = ["minideepseek", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(tree):
    """Pairs (module, names imported from it or None) of every import that runs."""
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped |= {id(inner) for part in node.body for inner in ast.walk(part)}
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports here are absolute"
            yield node.module, [alias.name for alias in node.names]


def imported_modules(name):
    """The project's own modules that a module imports, a folder's `__init__` among them."""
    found = set()
    for module, names in imports_of(ast.parse(FILES[name].read_text("utf-8"))):
        if module == "minideepseek" and names == ["__version__"]:
            continue
        if module.split(".")[0] == "minideepseek":
            inner = {f"{module}.{n}" for n in names or ()}
            found |= (inner & set(FILES)) or {module}
    return found


def part_of(name):
    """Which part a module belongs to: a number, the later the higher."""
    return PARTS.index(name.split(".")[1])


@pytest.mark.parametrize("name", sorted(set(FILES) - ALONE))
def test_a_part_imports_earlier_parts_only(name):
    for other in imported_modules(name):
        assert other in FILES, f"{name} imports {other}, which does not exist"
        assert other not in ALONE, f"{name} imports the table of contents, which imports it"
        assert part_of(other) <= part_of(name), f"{name} imports {other}: the arrow turns back"


def test_no_module_imports_itself_through_others():
    graph = {name: imported_modules(name) - ALONE for name in FILES}
    for one, other in DEFERRED:
        graph[one].remove(other)
    done: set[str] = set()

    def visit(name, path):
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("name", sorted(FILES))
def test_array_libraries_are_imported_where_they_may_be(name):
    path = FILES[name].relative_to(ROOT).as_posix()
    for module, _ in imports_of(ast.parse(FILES[name].read_text("utf-8"))):
        library = module.split(".")[0]
        if library in ("cupy", "cupyx"):
            assert path == "autograd/backend.py", f"{path} imports {module}; backend.py alone may"
        if library == "numpy":
            allowed = path in HOST_ONLY or path.startswith((*LEARNERS, FORMULAS))
            assert allowed, f"{path} imports numpy; ask backend.xp_of for the module"


def test_the_list_of_host_files_holds_no_more_than_it_must():
    for path in HOST_ONLY:
        assert "import numpy" in (ROOT / path).read_text("utf-8"), f"{path} does not import numpy"


def test_every_library_at_run_time_is_numpy_ml_dtypes_or_optional():
    # The extras, imported where they are used.
    optional = {"cupy", "cupyx", "jinja2", "markdown_it", "matplotlib", "pygments", "rich"}
    known = {"numpy", "ml_dtypes", "minideepseek", *sys.stdlib_module_names} | optional
    for name, path in FILES.items():
        tree = ast.parse(path.read_text("utf-8"))
        for module, _ in imports_of(tree):
            assert module.split(".")[0] in known, f"{name} imports {module}"
        for node in tree.body:  # at the top of a file, what is optional would not be
            if isinstance(node, ast.Import | ast.ImportFrom):
                for module, _ in imports_of(ast.Module([node], [])):
                    assert module.split(".")[0] not in optional, f"{name} needs {module} to load"

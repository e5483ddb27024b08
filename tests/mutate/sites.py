"""Where mutants are planted: the files, every site in them, and the selection of a full run.

No mutant stands in what nobody computes with: imports, annotations, docstrings, decorators, texts
of errors and all of a `raise`, `__repr__`, f-strings, `strict=`, `copy=` and `daemon=`. The size of
a block decides the speed alone (results are the same bits for every cut, which the tests see to).

A site is named by what a reader sees, not by its line's number: the file, the line's text, the
operator, before and after (and which of several alike). So a verdict, or an entry of
equivalent.toml, survives a line that was added above.

The selection takes, of every operator in every file, the same fraction and at least one site: those
whose names hash lowest. It does not depend on the order of the files or of the functions, and a
changed function changes few of the choices.
"""

import ast
import copy
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import CodeType

from tests.mutate.operators import replacements
from tests.mutate.syntax import Place, name_of, number

ROOT = Path(__file__).parent.parent.parent
TARGETS = (  # relative to the root; a folder stands for its files
    "minideepseek/autograd",
    "minideepseek/layers",
    "minideepseek/model/decoding.py",
    "minideepseek/model/drafter.py",
    "minideepseek/model/fp8.py",
    "minideepseek/model/generate.py",
    "minideepseek/model/speculative.py",
    "minideepseek/model/transformer.py",
    "minideepseek/training/optim.py",
    "minideepseek/training/trainer.py",
    "minideepseek/reasoning/grpo",
)
EXCLUDED = {"minideepseek/autograd/cuda.py"}  # sentences about cards
FRACTION = 0.125  # of all sites in a full run
SKIPPED_FUNCTIONS = {"__repr__", "__str__"}
SKIPPED_KEYWORDS = {"strict", "copy", "daemon"}
SPEED = {"row_blocks": 2}  # from which argument on a function takes what decides its speed
SKIPPED_NAMES = {"__all__", "__slots__"}
Way = tuple[tuple[str, int | None], ...]  # the way down from the module: fields and indices


@dataclass(frozen=True, eq=False)
class Site:
    """One mutant: what is replaced where, and the lines whose tests could notice.

    lines: of the file; a default value's are its function's. function: "" for a line that runs at
    import. nth: of sites that look the same on one line.
    """

    file: str
    line: int
    text: str
    function: str
    operator: str
    before: str
    after: str
    lines: range
    nth: int
    way: Way
    choice: int
    within: tuple[str, ...]

    @property
    def change(self) -> str:
        return f"{self.before} → {self.after}" + f" ({self.nth + 1})" * (self.nth > 0)

    @property
    def key(self) -> str:
        """The name of the mutant within its file."""
        return f"{self.text} | {self.operator} | {self.change}"

    @cached_property
    def draw(self) -> str:
        """Where it stands in the order in which a selection takes the sites."""
        return hashlib.sha256(f"{self.file} | {self.key}".encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}  {self.operator:<10} {self.change}    | {self.text}"


def target_files(root: Path = ROOT, targets: tuple[str, ...] = TARGETS) -> list[str]:
    """The files of the targets, relative to the root."""
    found: list[str] = []
    for name in targets:
        paths = sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name]
        found += [str(p.relative_to(root)) for p in paths]
    return [name for name in found if name not in EXCLUDED]


def sites_of(file: str, root: Path = ROOT) -> list[Site]:
    """Every site of a file, from its top to its end."""
    source = (root / file).read_text("utf-8")
    lines = source.splitlines()
    found, alike = [], defaultdict(int)
    for node, place, way in _walk(ast.parse(source)):
        for choice, (operator, new) in enumerate(replacements(node, place)):
            shown = _shown(node, new, place)
            text = lines[node_line(node, place) - 1].strip()
            nth = alike[text, operator, shown]
            alike[text, operator, shown] += 1
            within = (_words(node), *(_words(p) for p in reversed(place.parents[1:])))
            runs = any(isinstance(p, ast.FunctionDef) for p in place.parents)
            function = place.inside if runs else ""
            found.append(Site(file, node_line(node, place), text, function, operator, *shown,
                              _lines(node, place), nth, way, choice, within))  # fmt: skip
    return found


def node_line(node: ast.AST, place: Place) -> int:
    """The line of a node; of those that have none (a slice, a filter), their parent's."""
    for candidate in (node, *reversed(place.parents)):
        if line := getattr(candidate, "lineno", None):
            return line
    return 1


def mutant(site: Site, root: Path = ROOT) -> CodeType:
    """The module's code with the site's mistake in it; lines keep their numbers."""
    path = root / site.file
    tree = ast.parse(path.read_text("utf-8"))
    node, place = next((n, p) for n, p, way in _walk(tree) if way == site.way)
    new = copy.deepcopy(list(replacements(node, place))[site.choice][1])
    line = node_line(node, place)
    for part in ast.walk(new):
        if "lineno" in part._attributes and not hasattr(part, "lineno"):
            part.lineno = part.end_lineno = line
            part.col_offset = part.end_col_offset = 0
    field, index = site.way[-1]
    if index is None:
        setattr(place.parent, field, new)
    else:
        getattr(place.parent, field)[index] = new
    return compile(ast.fix_missing_locations(tree), str(path), "exec")


def _walk(node: ast.AST, parents: tuple = (), way: Way = (), inside: str = "") -> Iterator[tuple]:
    """(node, place, way) of everything below `node` that may be mutated, from left to right."""
    for field, value in ast.iter_fields(node):
        many = isinstance(value, list)
        for i, child in enumerate(value if many else [value]):
            if not isinstance(child, ast.AST) or _skipped(child, field):
                continue
            if field == "args" and i >= SPEED.get(name_of(getattr(node, "func", None)), i + 1):
                continue
            place, step = Place((*parents, node), field, inside), (field, i if many else None)
            yield child, place, (*way, step)
            deeper = f"{inside}.{child.name}".lstrip(".") if _is_definition(child) else inside
            yield from _walk(child, place.parents, (*way, step), deeper)


def _is_definition(node: ast.AST) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.ClassDef))


def _skipped(node: ast.AST, field: str) -> bool:
    """Whether nobody computes with this part."""
    if field in {"decorator_list", "annotation", "returns", "bases", "ctx", "op", "ops", "msg"}:
        return True
    if isinstance(node, (ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr)):
        return True
    if isinstance(node, ast.FunctionDef) and node.name in SKIPPED_FUNCTIONS:
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.keyword) and node.arg in SKIPPED_KEYWORDS:
        return True
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        return name.endswith(("Error", "add_note", "warn", "TypeVar"))
    if isinstance(node, ast.Assign):
        return any(getattr(t, "id", "") in SKIPPED_NAMES for t in node.targets)
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _lines(node: ast.AST, place: Place) -> range:
    """The lines on which the node is computed; a default value's are those of its function."""
    function = place.parents[-2] if isinstance(place.parent, ast.arguments) else None
    if isinstance(place.parent, (ast.UnaryOp, ast.Tuple)) and len(place.parents) > 2:
        if isinstance(place.parents[-2], ast.arguments):
            function = place.parents[-3]
    if isinstance(function, ast.FunctionDef):
        return range(function.body[0].lineno, function.end_lineno + 1)
    for candidate in (node, *reversed(place.parents)):
        if hasattr(candidate, "lineno"):
            return range(candidate.lineno, candidate.end_lineno + 1)
    return range(1, 2)


def statement_lines(site: Site, root: Path = ROOT) -> range:
    """The lines of the whole statement that a site stands in, or of its head."""
    tree, found = ast.parse((root / site.file).read_text("utf-8")), range(site.line, site.line + 1)
    node: ast.AST = tree
    for field, index in site.way:
        part = getattr(node, field)
        node = part if index is None else part[index]
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno if body else node.end_lineno + 1
            found = range(node.lineno, max(end, node.lineno + 1))
    return found


def _words(node: ast.AST) -> str:
    """The node as source, in one line; "" for a block."""
    if isinstance(node, (ast.stmt, ast.Module)) and hasattr(node, "body"):
        return ""
    return " ".join(ast.unparse(node).split())


def _shown(node: ast.AST, new: ast.AST, place: Place) -> tuple[str, str]:
    """Before and after as source; a mere name or number is shown in what it stands in."""
    parent = place.parent
    small = isinstance(node, (ast.Constant, ast.Name, ast.Slice)) or number(node) is not None
    if small and isinstance(parent, ast.expr | ast.keyword | ast.Slice):
        value = getattr(parent, place.field)
        if isinstance(value, list):
            value = [new if v is node else v for v in value]
        else:
            value = new
        fields = {name: getattr(parent, name, None) for name in parent._fields}
        shown = _words(parent), _words(type(parent)(**{**fields, place.field: value}))
        if max(map(len, shown)) < 80:
            return shown
    if isinstance(new, ast.Pass):
        return _words(node), "dropped"
    return _words(node), _words(new)


def selection(sites: list[Site], fraction: float = FRACTION) -> list[Site]:
    """Of each operator in each file the given fraction, one at least, in the order of the files."""
    strata = defaultdict(list)
    for site in sites:
        strata[site.file, site.operator].append(site)
    chosen = []
    for members in strata.values():
        count = max(1, round(fraction * len(members)))
        chosen += sorted(members, key=lambda s: s.draw)[:count]
    order = {site.file: i for i, site in reversed(list(enumerate(sites)))}
    return sorted(chosen, key=lambda s: (order[s.file], s.line, s.draw))


def sample(sites: list[Site], count: int) -> list[Site]:
    """`count` of the sites, spread over operators and files: one of each operator in turn."""
    queues = defaultdict(list)
    for site in sorted(sites, key=lambda s: s.draw):
        queues[site.operator].append(site)
    chosen: list[Site] = []
    while len(chosen) < count and any(queues.values()):
        for name in sorted(queues):
            if queues[name] and len(chosen) < count:
                chosen.append(queues[name].pop(0))
    return chosen

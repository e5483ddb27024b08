"""The operators: each takes a piece of syntax and yields what a mistake would have made of it.

    sign         a + b → a − b;  −a → a;  x += y → x −= y
    term         a + b → a, b, a + b + b;  x += y → x += 2 y
    factor       a · b → a, b, a / b;  a / b → a, a · b;  a // b → a // b + 1;  xⁿ → x
    swap         a − b → b − a (/, //, @, %, **);  f(a, b) → f(b, a);  return a, b → return b, a
    axis         sum(−1) → sum(0);  keepdims=True → False
    off_by_one   n → n + 1, n − 1;  x[a:b] → x[a + 1:b], x[a:b − 1];  range(n) → range(n − 1)
    constant     0.5 → 1.0;  1e-20 → 0, 1e-3;  inf → 0;  True → False
    mask         where(m, a, b) → a, b, where(m, b, a);  m & n → m, n, m | n;  ~m → m
    reduction    x.sum(…) → x, x.mean(…);  unbroadcast(g, …) → g;  a mean → a sum
    order        max ↔ min, any ↔ all, floor ↔ ceil;  x[::-1] → x;  x[-k:] → x[:k];  sorted(x) → x
    compare      < ↔ <=, > ↔ >=, == ↔ !=, is ↔ is not, in ↔ not in
    logic        and ↔ or;  a and b → a, b;  if c → if not c;  not a → a;  a filter dropped
    statement    x += y, x[i] = y, f(x) as a statement, continue, break: dropped
    transpose    x.T, x.swapaxes(a, b), x.transpose(…) → x
    dtype        float32 ↔ float64, int16 → int8;  x.astype(t) → x

An operator is a function (node, place) → replacements. It never changes the node itself.
"""

import ast
from collections.abc import Callable, Iterator

from tests.mutate.syntax import (
    Place,
    binary,
    changed,
    is_method,
    is_number,
    is_sequence,
    literal,
    name_of,
    number,
)

Operator = Callable[[ast.AST, Place], Iterator[ast.AST]]
OPERATORS: dict[str, Operator] = {}


def operator(function: Operator) -> Operator:
    """Register an operator under its name, less the underscore of a name that Python needs."""
    OPERATORS[function.__name__.rstrip("_")] = function
    return function


def replacements(node: ast.AST, place: Place) -> Iterator[tuple[str, ast.AST]]:
    """(operator's name, replacement) of a node, each replacement once and none the node itself."""
    seen = {ast.dump(node)}
    for name, function in OPERATORS.items():
        for new in function(node, place):
            if (text := ast.dump(new)) not in seen:
                seen.add(text)
                yield name, new


# ------------------------------------------------------------------------------------ arithmetic

ADD, SUB, MUL, DIV = ast.Add(), ast.Sub(), ast.Mult(), ast.Div()


@operator
def sign(node, place):
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, (ast.Add, ast.Sub)):
        operands = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
        if not is_sequence(*operands):
            yield changed(node, op=SUB if isinstance(node.op, ast.Add) else ADD)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and number(node) is None:
        yield node.operand


@operator
def term(node, place):
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        if not is_sequence(node.left, node.right):
            yield node.left
            subtracted = isinstance(node.op, ast.Sub)
            yield ast.UnaryOp(ast.USub(), node.right) if subtracted else node.right
            yield binary(node, node.op, node.right)
    if isinstance(node, ast.AugAssign) and isinstance(node.op, (ast.Add, ast.Sub)):
        if not is_sequence(node.value):
            yield changed(node, value=binary(literal(2), MUL, node.value))


@operator
def factor(node, place):
    if isinstance(node, ast.BinOp) and not is_sequence(node.left, node.right):
        if isinstance(node.op, ast.Mult):
            yield from (node.left, node.right, changed(node, op=DIV))
        elif isinstance(node.op, ast.Div):
            yield from (node.left, changed(node, op=MUL))
        elif isinstance(node.op, ast.FloorDiv):
            yield binary(node, ADD, literal(1))
        elif isinstance(node.op, (ast.Mod, ast.Pow)):
            yield node.left
    if isinstance(node, ast.AugAssign) and isinstance(node.op, (ast.Mult, ast.Div)):
        yield changed(node, op=DIV if isinstance(node.op, ast.Mult) else MUL)


SYMMETRIC = {"maximum", "minimum", "add", "multiply", "max", "min", "array_equal", "zip", "gcd",
             "xp_of", "isinstance", "issubclass", "getattr", "hasattr", "setattr"}  # fmt: skip


@operator
def swap(node, place):
    if isinstance(node, ast.BinOp):
        ordered = (ast.Sub, ast.Div, ast.FloorDiv, ast.MatMult, ast.Mod, ast.Pow)
        if isinstance(node.op, ordered) and not is_sequence(node.left, node.right):
            yield changed(node, left=node.right, right=node.left)
    if isinstance(node, ast.Call) and len(node.args) == 2 and name_of(node.func) not in SYMMETRIC:
        unlike = (ast.Starred, ast.GeneratorExp, ast.Lambda, ast.Constant, ast.JoinedStr)
        if not any(isinstance(a, unlike) or number(a) is not None for a in node.args):
            yield changed(node, args=node.args[::-1])
    returned = isinstance(place.parent, ast.Return) or (
        isinstance(place.parent, ast.Lambda) and place.field == "body"
    )
    if returned and isinstance(node, ast.Tuple) and len(node.elts) > 1:
        for i in range(len(node.elts) - 1):
            new = list(node.elts)
            new[i], new[i + 1] = new[i + 1], new[i]
            yield changed(node, elts=new)


# ------------------------------------------------------------------------------ axes and numbers

AXIS = {  # the place of a method's axis; a function's comes one later, after the array
    "sum": 0, "mean": 0, "max": 0, "min": 0, "argmax": 0, "argmin": 0, "any": 0, "all": 0,
    "sort": 0, "argsort": 0, "cumsum": 0, "prod": 0, "stack": 0, "concatenate": 0,
    "expand_dims": 0, "squeeze": 0, "take_along_axis": 1, "put_along_axis": 2,
}  # fmt: skip


def is_axis(node: ast.AST, place: Place) -> bool:
    """Whether node stands where a call takes an axis."""
    if isinstance(place.parent, ast.keyword):
        return place.parent.arg == "axis"
    call, name = place.parent, name_of(getattr(place.parent, "func", None))
    if not isinstance(call, ast.Call) or place.field != "args":
        return False
    where = next(i for i, a in enumerate(call.args) if a is node)
    if name == "swapaxes":
        return True
    return name in AXIS and where == AXIS[name] + (not is_method(call))


def is_rest(node: ast.AST, place: Place) -> bool:
    """Whether node is the −1 of a reshape, which may be any negative number."""
    calls = (getattr(p, "func", None) for p in place.parents[-2:])
    return number(node) == -1 and "reshape" in map(name_of, calls)


@operator
def axis(node, place):
    if is_number(node, place, int) and is_axis(node, place):
        yield literal({-1: 0, 0: -1}.get(number(node), number(node) - 1))
    if isinstance(node, ast.keyword) and node.arg == "keepdims":
        if isinstance(node.value, ast.Constant):
            yield changed(node, value=literal(not node.value.value))


@operator
def off_by_one(node, place):
    if is_number(node, place, int) and not is_axis(node, place) and not is_rest(node, place):
        n = number(node)
        yield from map(literal, (n + 1, n - 1) if abs(n) < 100 else (n // 2,))
    if isinstance(node, ast.Slice):
        if node.lower is not None and number(node.lower) is None:
            yield changed(node, lower=binary(node.lower, ADD, literal(1)))
        if node.upper is not None and number(node.upper) is None:
            yield changed(node, upper=binary(node.upper, SUB, literal(1)))
    if isinstance(node, ast.Call) and name_of(node.func) == "range":
        for i, end in enumerate(node.args[:2]):
            if number(end) is None and not isinstance(end, ast.Starred):
                args = list(node.args)
                args[i] = binary(end, SUB, literal(1))
                yield changed(node, args=args)


@operator
def constant(node, place):
    if is_number(node, place, float):
        value = number(node)
        if 0 < abs(value) <= 1e-6:
            yield from (literal(0.0), literal(1e-3))
        else:
            yield literal(0.0 if abs(value) > 1e15 else 2 * value if value else 1.0)
    if isinstance(node, ast.Attribute) and node.attr == "inf":
        yield literal(0.0)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        if not (isinstance(place.parent, ast.keyword) and place.parent.arg == "keepdims"):
            yield literal(not node.value)


# ------------------------------------------------------------------- masks, reductions and order


@operator
def mask(node, place):
    if isinstance(node, ast.Call) and name_of(node.func) == "where" and len(node.args) == 3:
        m, a, b = node.args
        yield from (a, b, changed(node, args=[m, b, a]))
    alias = not place.inside and isinstance(getattr(node, "right", None), ast.Name)  # of types
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr)) and not alias:
        yield from (node.left, node.right)
        yield changed(node, op=ast.BitOr() if isinstance(node.op, ast.BitAnd) else ast.BitAnd())
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        yield node.operand


def renamed(call: ast.Call, name: str) -> ast.AST:
    """The call of another function or method of the same object."""
    part = "attr" if isinstance(call.func, ast.Attribute) else "id"
    return changed(call, func=changed(call.func, **{part: name}))


@operator
def reduction(node, place):
    if not isinstance(node, ast.Call):
        return
    name = name_of(node.func)
    if name in {"sum", "mean", "cumsum"} and isinstance(node.func, ast.Attribute):
        yield node.func.value if is_method(node) else node.args[0]
        if name != "cumsum":
            yield renamed(node, {"sum": "mean", "mean": "sum"}[name])
    if name == "unbroadcast":
        yield node.args[0]


OPPOSITE = {"max": "min", "maximum": "minimum", "argmax": "argmin", "any": "all", "floor": "ceil"}
OPPOSITE |= {b: a for a, b in OPPOSITE.items()}


@operator
def order(node, place):
    if isinstance(node, ast.Call):
        name = name_of(node.func)
        if name in OPPOSITE:
            yield renamed(node, OPPOSITE[name])
        if name in {"sort", "argsort", "argpartition", "partition"} and node.keywords:
            rest = [k for k in node.keywords if k.arg != "kind"]
            yield changed(node, keywords=rest)
        if name in {"reversed", "sorted"} and not isinstance(node.args[0], ast.GeneratorExp):
            yield node.args[0]
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        if number(node.slice.step) == -1:
            yield node.value
    if isinstance(node, ast.Slice) and node.upper is None and isinstance(node.lower, ast.UnaryOp):
        yield changed(node, lower=None, upper=node.lower.operand)


# ----------------------------------------------------------------------------- logic, statements

FLIPPED = {ast.Lt: ast.LtE, ast.Gt: ast.GtE}
FLIPPED |= {ast.Eq: ast.NotEq, ast.Is: ast.IsNot, ast.In: ast.NotIn}
FLIPPED |= {b: a for a, b in FLIPPED.items()}
NEGATED_BY_FLIP = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)


@operator
def compare(node, place):
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            yield changed(node, ops=[*node.ops[:i], FLIPPED[type(op)](), *node.ops[i + 1 :]])


@operator
def logic(node, place):
    if isinstance(node, ast.BoolOp):
        yield changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        for i in range(len(node.values)):
            rest = node.values[:i] + node.values[i + 1 :]
            yield rest[0] if len(rest) == 1 else changed(node, values=rest)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    if place.field == "test" and isinstance(place.parent, (ast.If, ast.IfExp, ast.While)):
        flips = isinstance(node, ast.Compare) and isinstance(node.ops[0], NEGATED_BY_FLIP)
        if not flips and not (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
            yield ast.UnaryOp(ast.Not(), node)
    if isinstance(node, ast.comprehension) and node.ifs:
        yield changed(node, ifs=[])


@operator
def statement(node, place):
    drops = isinstance(node, (ast.AugAssign, ast.Continue, ast.Break))
    if isinstance(node, ast.Expr):
        drops = isinstance(node.value, ast.Call)
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        drops = isinstance(target, ast.Subscript) or (
            isinstance(target, ast.Attribute) and not place.inside.endswith("__init__")
        )
    if drops:
        yield ast.Pass()


@operator
def transpose(node, place):
    if isinstance(node, ast.Attribute) and node.attr == "T":
        yield node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_method(node):
        if node.func.attr in {"swapaxes", "transpose"}:
            yield node.func.value


DTYPES = {"float32": "float64", "float64": "float32", "int16": "int8"}


@operator
def dtype(node, place):
    if isinstance(node, ast.Constant) and node.value in DTYPES:
        yield ast.Constant(DTYPES[node.value])
    if isinstance(node, ast.Attribute) and node.attr in DTYPES:
        yield changed(node, attr=DTYPES[node.attr])
    if isinstance(node, ast.Call) and name_of(node.func) == "astype" and is_method(node):
        yield node.func.value

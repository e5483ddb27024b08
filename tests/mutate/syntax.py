"""Small questions about pieces of syntax, and small pieces of it."""

import ast
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a node stands: its parents, the nearest last, and the field of the last that holds it.

    inside: the function's name after those of what it stands in; "" at the top of a module.
    """

    parents: tuple[ast.AST, ...]
    field: str
    inside: str = ""

    @property
    def parent(self) -> ast.AST:
        return self.parents[-1]


def number(node: ast.AST | None) -> int | float | None:
    """The value of a literal number, a minus before it included; booleans are none."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = number(node.operand)
        return None if value is None else -value
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    return None


def is_number(node: ast.AST, place: Place, kind: type) -> bool:
    """Whether node is a whole literal of that type, not the digits behind a minus."""
    if isinstance(place.parent, ast.UnaryOp) and number(place.parent) is not None:
        return False
    return type(number(node)) is kind


def name_of(node: ast.AST) -> str:
    """The last part of the name that a call's function goes by."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def is_method(call: ast.Call) -> bool:
    """x.sum(…) and not xp.sum(x, …): the receiver is the array."""
    receiver = getattr(call.func, "value", None)
    return receiver is not None and name_of(receiver) not in {"xp", "np", "numpy", "ops", "math"}


def is_sequence(*nodes: ast.AST) -> bool:
    """Whether one of the operands is plainly a text, a list or a tuple: no arithmetic, then."""
    texts = (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp)
    return any(
        isinstance(n, texts) or (isinstance(n, ast.Constant) and isinstance(n.value, str))
        or (isinstance(n, ast.BinOp) and is_sequence(n.left, n.right))
        for n in nodes
    )  # fmt: skip


def literal(value: object) -> ast.AST:
    """A number as Python writes it."""
    return ast.parse(repr(value), mode="eval").body


def binary(left: ast.AST, op: ast.operator, right: ast.AST) -> ast.BinOp:
    return ast.BinOp(left, op, right)


def changed(node: ast.AST, **fields: object) -> ast.AST:
    """A shallow copy of the node with other fields."""
    new = type(node)(**{name: getattr(node, name, None) for name in node._fields})
    for name, value in fields.items():
        setattr(new, name, value)
    return ast.copy_location(new, node)

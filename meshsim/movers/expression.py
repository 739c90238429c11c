"""Arithmetic on fields given as text: parsed and walked, never run as code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

import numpy as np

from meshsim.check import InputError, check_known, one_line
from meshsim.movers.simplices import Array

_BINARY: dict[type[ast.operator], Callable[[Array, Array], Array]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_PLAIN: dict[str, Callable[..., Array]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "cosh": np.cosh,
    "min": np.minimum,
    "max": np.maximum,
}
_TWO = ("min", "max")
LONGEST = 1000


class Expression:
    """An expression over fields, read once and evaluated as often as wanted.

    Numbers, `+ - * / ** ^`, brackets, names of fields, functions of one argument (`abs sqrt exp
    log sin cos tanh cosh`), `min` and `max` of two, and those that the caller adds.

    Arguments:
        text: such as "1 + 5*H(u)".
        fields: the names that may stand in it.
        functions: names of further functions of one argument, a field or an expression.

    Raises:
        InputError: it does not parse, or a name is not known (the nearest one is given).

    >>> Expression("1 + 2*u^2", ["u"]).evaluate({"u": np.array([0.0, 3.0])})
    array([ 1., 19.])
    """

    def __init__(self, text: str, fields: list[str], functions: list[str] | None = None):
        self.text = text
        if len(text) > LONGEST:
            raise InputError(f"expression: expected at most {LONGEST} characters, got {len(text)}")
        try:
            self._tree = ast.parse(text.replace("^", "**").strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise InputError(f"expression {text!r}: {one_line(error)}") from None
        self._functions = list(functions or [])
        self.fields: set[str] = set()
        self._check(self._tree, fields)

    def _check(self, node: ast.expr, fields: list[str]) -> None:
        if isinstance(node, ast.Constant):
            if isinstance(node.value, bool) or not isinstance(node.value, int | float):
                raise self._refused(node)
        elif isinstance(node, ast.Name):
            check_known(node.id, fields, f"field in expression {self.text!r}")
            self.fields.add(node.id)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            self._check(node.operand, fields)
        elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            self._check(node.left, fields)
            self._check(node.right, fields)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            name = node.func.id
            known = [*_PLAIN, *self._functions]
            check_known(name, known, f"function in expression {self.text!r}")
            want = 2 if name in _TWO else 1
            if len(node.args) != want:
                raise InputError(
                    f"expression {self.text!r}: {name} takes {want} argument{'s' * (want > 1)},"
                    f" got {len(node.args)}"
                )
            for argument in node.args:
                self._check(argument, fields)
        else:
            raise self._refused(node)

    def _refused(self, node: ast.expr) -> InputError:
        return InputError(
            f"expression {self.text!r}: expected numbers, fields, + - * / ^ and functions,"
            f" got {ast.unparse(node)!r}"
        )

    def evaluate(
        self,
        fields: Mapping[str, Array],
        functions: Mapping[str, Callable[[Array], Array]] | None = None,
    ) -> Array:
        """The value for `fields`, with numpy's rules for shapes; float64."""

        def value(node: ast.expr) -> Array:
            if isinstance(node, ast.Constant):
                return np.asarray(float(node.value))  # type: ignore[arg-type]
            if isinstance(node, ast.Name):
                return np.asarray(fields[node.id], dtype=np.float64)
            if isinstance(node, ast.UnaryOp):
                inner = value(node.operand)
                return np.asarray(-inner) if isinstance(node.op, ast.USub) else inner
            if isinstance(node, ast.BinOp):
                return np.asarray(_BINARY[type(node.op)](value(node.left), value(node.right)))
            assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            name = node.func.id
            call = (functions or {}).get(name) or _PLAIN[name]
            return np.asarray(call(*(value(a) for a in node.args)))

        with np.errstate(all="ignore"):
            return value(self._tree)

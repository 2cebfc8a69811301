"""The strings under the members of a class, which Python itself throws away: the documentation of fields and events."""

import ast
import inspect
import sys
from itertools import pairwise


def member_docstrings(described: type) -> dict[str, str]:
    """Each documented member of a class that stands at the top of its module, with its docstring on one line."""
    tree = ast.parse(inspect.getsource(sys.modules[described.__module__]))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == described.__name__)
    found: dict[str, str] = {}
    for member, docstring in pairwise(body):
        match member, docstring:
            case (
                ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found

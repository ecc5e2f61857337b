"""Rewrites the syntax tree of a chat template so that the compiled template reports what it does.

What is inserted are filters, under names that are no identifiers.  The environment that runs the
template supplies them: :data:`STEP` returns its argument, :data:`PAY` too and charges its size,
:data:`CONCAT` joins the texts of its arguments.  A template that finds a way to call one of them
itself only spends more.
"""

from __future__ import annotations

from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

STEP, PAY, CONCAT = "(step)", "(pay)", "(concat)"

_REFUSED_NODES: dict[type[nodes.Node], str] = {
    nodes.Extends: "extends",
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "import",
    nodes.Block: "block",
    nodes.ScopedEvalContextModifier: "autoescape",
}
_MAX_COMPARISONS = 8


class Metering(NodeTransformer):
    """The rewriting visitor; refuses statements that would reach outside the template.

    Text goes through the same output function as expressions do, so that what a loop prints is
    paid for as often as it is printed.
    """

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        statement = _REFUSED_NODES.get(type(node))
        if statement is not None:
            raise jinja2.exceptions.SecurityError(f"a chat template may not use {{% {statement} %}}.")
        return super().generic_visit(node, *args, **kwargs)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, _step_statement(node.lineno))
        if node.test is not None:
            node.test = nodes.And(_step_expression(node.lineno), node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, _step_statement(node.lineno))
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, _step_statement(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Filter(node.nodes[0], CONCAT, node.nodes[1:], [], None, None, lineno=node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        if len(node.ops) > _MAX_COMPARISONS:
            raise jinja2.exceptions.SecurityError(f"it chains more than {_MAX_COMPARISONS} comparisons.")
        return self._paid(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        if isinstance(node.arg, nodes.Slice):
            return self._paid(node)
        return self.generic_visit(node)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._paid(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._paid(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        # A tuple of names that is assigned to is not a value.
        return self._paid(node) if node.ctx == "load" else self.generic_visit(node)

    def _paid(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Filter(node, PAY, [], [], None, None, lineno=node.lineno)


def _step_expression(lineno: int) -> nodes.Expr:
    true = nodes.Const(True, lineno=lineno)
    return nodes.Filter(true, STEP, [], [], None, None, lineno=lineno)


def _step_statement(lineno: int) -> nodes.Stmt:
    return nodes.ExprStmt(_step_expression(lineno), lineno=lineno)

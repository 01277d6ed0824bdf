"""Is a `.pt2` safe to load? torch's own loader would run code that stands in one (torch 2.13).

`torch.export.load` unpickles without limits (sample inputs, constants, custom objects), loads compiled libraries
(AOTInductor), evaluates texts (symbolic expressions by `sympy.sympify`, guards by `exec`), imports modules that a tree of
inputs names, looks up any function below `torch` by name, and writes names into Python source that it executes. So all that
is text in a program is held against what an exporter writes, before any of it is loaded.
"""

import ast
import json
import keyword
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch
from torch._export.serde.serialize import _SYM_OPS
from torch.export.pt2_archive import PT2ArchiveReader

from app.errors import InvalidModel, UnsafeModel, UnsupportedOperator
from app.text import plain
from workers.torch.model import EXPORT_HINT as HINT

MODEL = "models/model.json"
_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/[\w.]+|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json|model\.pt)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json|model\.pt)|extra/[^\x00-\x1f]*"
)
_PAYLOADS = {  # by what stands in their place in files of torch 2.8: one pickle of tensors
    "data/weights/model.pt": "data/weights/model_weights_config.json",
    "data/constants/model.pt": "data/constants/model_constants_config.json",
}
_COMPILED = ("data/aotinductor/", "executorch/", "mtia/")
_PICKLED = ("data/constants/custom_obj_", "data/constants/opaque_obj_")
_QUOTABLE = re.compile(
    r"[^\x00-\x1f\x7f-\x9f\u2028\u2029'\"`\\]*"
)  # stays inside the quotes that torch writes around it
_SYMBOL = re.compile(r"(s|u|z|zf|zuf)\d+")
_NUMBERS = {"as_int", "as_float", "min_val", "max_val"}
_INFINITE = {"Infinity", "-Infinity", "NaN"}
_NAMESPACES = {"aten": None, "prims": None, "quantized_decomposed": "torch.ao.quantization.fx._decomposed"}
_REFUSED_OPERATORS = {"aten.from_file.default", "aten.from_file.out"}  # opens, and may create, any file
_HIGHER_ORDER = {
    "associative_scan", "cond", "map_impl", "scan", "while_loop", "wrap_with_autocast", "wrap_with_set_grad_enabled",
}  # fmt: skip
_FUNCTIONS = {
    "Abs", "Add", "And", "CeilDiv", "CeilToInt", "CleanDiv", "Eq", "Equality", "FloatPow", "FloatTrueDiv", "FloorDiv",
    "FloorToInt", "Ge", "GreaterThan", "Gt", "Identity", "IntInfinity", "IntTrueDiv", "IsNonOverlappingAndDenseIndicator",
    "LShift", "Le", "LessThan", "Lt", "Max", "Min", "Mod", "ModularIndexing", "Mul", "Ne", "NegativeIntInfinity", "Not", "Or",
    "Piecewise", "Pow", "PowByNatural", "PythonMod", "RShift", "Rational", "RoundDecimal", "RoundToInt", "StrictGreaterThan",
    "StrictLessThan", "ToFloat", "TruncToFloat", "TruncToInt", "Unequality", "Where", "abs", "ceiling", "floor", "max", "min",
}  # fmt: skip
_MADE_OF_TEXT = {"Float", "Integer", "Symbol"}  # the rest of sympy would evaluate a text
_TEXT = re.compile(r"[A-Za-z]\w{0,99}|[-+]?[\d.]{1,99}(e[-+]?\d{1,3})?")
_CONSTANTS = {"L", "false", "int_oo", "oo", "true"}
_LONGEST_EXPRESSION = 10_000  # characters
_OPERATIONS = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.Load,
    ast.keyword, ast.Tuple,
)  # fmt: skip


def audit(reader: PT2ArchiveReader) -> dict[str, Any]:
    """The program's JSON, once nothing in the archive can run when torch loads it.

    Raises:
        UnsafeModel: something would, or might.
        UnsupportedOperator: an operator that this torch does not know.
        InvalidModel: it is no exported program.
    """
    names = reader.get_file_names()
    for name in names:
        _check_member(name)
    if MODEL not in names:
        raise InvalidModel("the .pt2 holds no program called 'model'", hint=HINT)
    for pickled, config in _PAYLOADS.items():
        if config in names:
            _check_payloads(_read_json(reader, config))
        elif pickled not in names:
            raise InvalidModel(f"the .pt2 lacks {config!r}", hint=HINT)
    program = _read_json(reader, MODEL)
    for path, value in _leaves(program):
        _check_text(path, value)
    return program


def _check_member(name: str) -> None:
    if name.startswith(_COMPILED):
        raise UnsafeModel(f"the .pt2 holds compiled code: {plain(name, 200)!r}", hint=HINT)
    if name.startswith(_PICKLED):
        raise UnsafeModel(
            f"the .pt2 holds a pickled object, which runs code when it is loaded: {plain(name, 200)!r}",
            hint="export a network whose state is tensors alone",
        )
    if name.startswith("models/") and name != MODEL:
        raise InvalidModel(
            f"the .pt2 holds a program called {plain(name[7:].removesuffix('.json'), 100)!r}", hint=HINT
        )
    if not _MEMBERS.fullmatch(name):
        raise UnsafeModel(f"the .pt2 holds a file that no exporter writes: {plain(name, 200)!r}", hint=HINT)


def _read_json(reader: PT2ArchiveReader, name: str) -> dict[str, Any]:
    try:
        value = json.loads(reader.read_bytes(name))
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{name} in the .pt2 is no JSON: {plain(str(error), 200)}", hint=HINT) from error
    if not isinstance(value, dict):
        raise InvalidModel(f"{name} in the .pt2 is no JSON object", hint=HINT)
    return value


def _check_payloads(config: dict[str, Any]) -> None:
    for path, value in _leaves(config):
        key = path[-1] if path else ""
        if isinstance(value, str) and not _QUOTABLE.fullmatch(value):
            raise _unsafe("the name of a weight", value)
        if key == "path_name" and not re.fullmatch(r"(weight|tensor)_\d+", str(value)):
            raise _unsafe("the file of a weight", str(value))


def _leaves(root: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of a JSON document with the keys that lead to it; keys themselves come as values too."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                yield (*path, "key of"), key
                waiting.append(((*path, key), inner))
        elif isinstance(value, list):
            waiting.extend((path, inner) for inner in value)
        else:
            yield path, value


def _check_text(path: tuple[str, ...], value: Any) -> None:
    key = path[-1] if path else ""
    if key in _NUMBERS:
        if not (value is None or isinstance(value, int | float) or value in _INFINITE):
            raise _unsafe("a number", str(value))
        return
    if not isinstance(value, str):
        return
    if (
        path[-3:-1] == ("nodes", "metadata")
        or path[:-1] == ("graph_module", "metadata")
        or key == "as_string"
    ):
        return  # notes for people, which torch reads as JSON at most, and arguments, which it quotes by `repr`
    if path[-2:] == ("range_constraints", "key of"):
        key = "expr_str"
    _CHECKS.get(key, _check_quotable)(value)


def _check_quotable(text: str) -> None:
    if not _QUOTABLE.fullmatch(text):
        raise _unsafe("a name", text)


def _check_name(text: str) -> None:
    """Names become variables of Python source that torch generates and executes."""
    if text and (not text.isidentifier() or keyword.iskeyword(text)):
        raise _unsafe("the name of a value", text)


def _check_operator(text: str) -> None:
    parts = text.split(".")
    if parts[:2] == ["torch", "ops"] and len(parts) in (4, 5):
        _check_registered(text, parts[2:])
    elif text not in _SYMBOLIC:
        raise _unsafe("a function", text)


def _check_registered(text: str, parts: list[str]) -> None:
    namespace = parts[0]
    if namespace == "higher_order" and len(parts) == 2:
        if parts[1] not in _HIGHER_ORDER:
            raise _unknown(text)
        return
    if ".".join(parts) in _REFUSED_OPERATORS:
        raise _unsafe("an operator that opens files", text)
    if namespace not in _NAMESPACES:
        raise _unknown(text)
    if (module := _NAMESPACES[namespace]) is not None:
        import_module(module)
    found: Any = torch.ops
    for part in parts:
        found = getattr(found, part, None)
    if not isinstance(found, torch._ops.OpOverload):
        raise _unknown(text)


def _check_expression(text: str) -> None:
    """Arithmetic on symbols, numbers and sizes of inputs; torch evaluates it as Python."""
    tree: ast.AST | None
    try:
        tree = ast.parse(text, mode="eval") if len(text) <= _LONGEST_EXPRESSION else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    texts = _harmless_texts(tree) if tree else set()
    if tree is None or not all(_is_arithmetic(node, texts) for node in ast.walk(tree)):
        raise _unsafe("an expression of sizes", text)


def _is_arithmetic(node: ast.AST, texts: set[int]) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) or id(node) in texts
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS | _MADE_OF_TEXT | _CONSTANTS or bool(_SYMBOL.fullmatch(node.id))
    if isinstance(node, ast.Call):
        named = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS | _MADE_OF_TEXT
        return named or isinstance(node.func, ast.Attribute)
    if isinstance(node, ast.Attribute):
        return node.attr in ("size", "stride", "storage_offset") and _starts_at_inputs(node)
    if isinstance(node, ast.Subscript):
        return _starts_at_inputs(node)
    return isinstance(node, _OPERATIONS)


def _harmless_texts(tree: ast.AST) -> set[int]:
    """The constants (by identity) that are texts where nothing evaluates them: keys of inputs, names of symbols, numbers."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            given, pattern = [node.slice], _QUOTABLE
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MADE_OF_TEXT:
            given, pattern = node.args[:1], _TEXT
        else:
            continue
        found |= {
            id(text)
            for text in given
            if isinstance(text, ast.Constant)
            and isinstance(text.value, str)
            and pattern.fullmatch(text.value)
        }
    return found


def _starts_at_inputs(node: ast.expr) -> bool:
    """Whether it reads `L['x'][0].size()[1]`: the path to an input, then perhaps one of its sizes."""
    while isinstance(node, ast.Subscript | ast.Attribute | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return isinstance(node, ast.Name) and node.id == "L"


def _check_inputs(text: str) -> None:
    """Names of keyword arguments become names of arguments in the source that torch generates."""
    for path, value in _tree(text):
        if path[-1:] != ("type",) and not (value.isidentifier() and not keyword.iskeyword(value)):
            raise _unsafe("the name of an input", value)


def _check_outputs(text: str) -> None:
    for _, value in _tree(text):
        _check_quotable(value)


def _tree(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The texts of a tree of inputs or outputs: JSON whose contexts are JSON again. An enum in it would import its module."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidModel(
            f"a tree of inputs or outputs is no JSON: {plain(text, 200)!r}", hint=HINT
        ) from error
    for path, value in _leaves(document):
        if value in ("__enum__", "fqn"):
            raise _unsafe("a tree of values that imports a module", text)
        if isinstance(value, str) and path[-1:] == ("context",) and value != "null":
            yield from _tree(value)
        elif isinstance(value, str):
            yield path, value


def _unsafe(what: str, text: str) -> UnsafeModel:
    return UnsafeModel(
        f"the .pt2 holds {what} that could run code when it is loaded: {plain(text, 200)!r}", hint=HINT
    )


def _unknown(operator: str) -> UnsupportedOperator:
    name = plain(operator.removeprefix("torch.ops."), 200)
    return UnsupportedOperator(
        f"the program uses the operator {name!r}, which is not one of torch's own",
        node=name,
        hint="export the network without custom operators",
    )


def _symbolic() -> set[str]:
    functions = {
        f"_operator.{function.__name__}" for function in _SYM_OPS if function.__module__ == "_operator"
    }
    others = {function.__name__ for function in _SYM_OPS if function.__module__ != "_operator"}
    return functions | {"_operator.getitem", "math.trunc"} | {f"torch.{name}" for name in others - {"trunc"}}


_SYMBOLIC = _symbolic()
_CHECKS: dict[str, Callable[[str], None]] = {
    "target": _check_operator,
    "as_operator": _check_operator,
    "expr_str": _check_expression,
    "guards_code": _check_expression,
    "in_spec": _check_inputs,
    "out_spec": _check_outputs,
    "name": _check_name,
    "as_name": _check_name,
    "forward_arg_names": _check_name,
}

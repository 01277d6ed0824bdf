"""Passes, targets and recipes as the command line writes them, turned into a job's plain data. Pure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.catalog.short_target import capabilities_of
from app.commands.common import USAGE, Failure

OPENING, CLOSING = "[{", "]}"


def parse_pass(text: str) -> dict[str, Any]:
    """`NAME[:k=v,k=v]` as a recipe's step: `quantize-static:method=entropy,excluded_nodes=[a,b]`.

    Raises:
        Failure: the text is not of that form.
    """
    name, _, rest = text.partition(":")
    if not name.strip():
        raise Failure(
            f"--pass {text}: no name", hint="--pass NAME[:k=v,k=v…]; see `burnish passes`", status=USAGE
        )
    step: dict[str, Any] = {"pass": name.strip()}
    if rest.strip():
        step["params"] = parse_params(rest, f"--pass {text}")
    return step


def parse_targets(texts: Sequence[str]) -> list[dict[str, Any]]:
    """`RUNTIME[:smNN+smNN][:k=v,k=v],RUNTIME…`, repeatable: a piece `k=v` belongs to the runtime before it.

    Raises:
        Failure: a text is not of that form.
    """
    targets: list[dict[str, Any]] = []
    for text in texts:
        for piece in split(text):
            head, _, rest = piece.partition(":")
            if "=" in head and targets:
                targets[-1].setdefault("params", {}).update(parse_params(piece, f"--target {text}"))
                continue
            if not head.strip() or "=" in head:
                raise Failure(f"--target {text}: no runtime", hint="see `burnish runtimes`", status=USAGE)
            targets.append({"runtime": head.strip()})
            first, _, more = rest.partition(":")
            if capabilities := capabilities_of(first):
                targets[-1]["params"] = {"compute_capabilities": capabilities}
                rest = more
                if rest:
                    targets[-1]["params"] |= parse_params(rest, f"--target {text}")
            elif rest:
                targets[-1]["params"] = parse_params(rest, f"--target {text}")
    return targets


def parse_params(text: str, option: str) -> dict[str, Any]:
    """`k=v,k=v` with values as in JSON, where quotes around words may be left out; `a.b=v` is `b` inside of `a`.

    Raises:
        Failure: a piece is not `k=v`, or a key comes twice.
    """
    params: dict[str, Any] = {}
    for piece in split(text):
        key, equals, value = piece.partition("=")
        key = key.strip()
        if not equals or not key:
            raise Failure(f"{option}: {piece!r} is not k=v", hint="lists are written [a,b]", status=USAGE)
        *outer, last = key.split(".")
        inside: Any = params
        for part in outer:
            inside = inside.setdefault(part, {}) if isinstance(inside, dict) else None
        if not isinstance(inside, dict) or last in inside:
            raise Failure(f"{option}: {key} was given twice", status=USAGE)
        inside[last] = parse_value(value.strip())
    return params


def parse_value(text: str) -> Any:
    """A JSON value, or a list `[a,b]` of such, or else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    if text.startswith("[") and text.endswith("]"):
        return [parse_value(piece.strip()) for piece in split(text[1:-1])]
    return text


def split(text: str) -> list[str]:
    """The pieces between commas that stand in no bracket and no quotes; empty pieces are left out."""
    pieces, depth, quoted, start = [], 0, False, 0
    for index, letter in enumerate(text):
        if letter == '"' and text[index - 1 : index] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif letter in OPENING:
            depth += 1
        elif letter in CLOSING:
            depth -= 1
        elif letter == "," and depth == 0:
            pieces.append(text[start:index])
            start = index + 1
    return [piece for piece in (*pieces, text[start:]) if piece.strip()]


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe from a JSON file: a recipe itself, or a job or manifest that holds one.

    Raises:
        Failure: the file holds none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Failure(f"{path} is not JSON: {error}", status=USAGE) from error
    recipe = content.get("recipe", content) if isinstance(content, dict) else None
    if not isinstance(recipe, dict) or not isinstance(recipe.get("passes"), list):
        raise Failure(
            f"{path} holds no recipe", hint='{"schema": 1, "passes": [{"pass": "simplify"}]}', status=USAGE
        )
    return recipe


def bind_data(
    passes: Sequence[Mapping[str, Any]], catalog: Sequence[Mapping[str, Any]], role: str, id_: str
) -> tuple[list[dict[str, Any]], bool]:
    """The steps with the dataset or model of this id in this role for every pass that reads some and names none; whether any did."""
    specs = {spec["name"]: spec for spec in catalog}
    bound, used = [], False
    for step in passes:
        spec = specs.get(step.get("pass", ""))
        if (
            spec is not None
            and role not in step.get("inputs", {})
            and _reads(spec, role, step.get("params", {}))
        ):
            step = {**step, "inputs": {**step.get("inputs", {}), role: id_}}
            used = True
        bound.append(dict(step))
    return bound, used


def _reads(spec: Mapping[str, Any], role: str, params: Mapping[str, Any]) -> bool:
    """Whether a pass reads data in this role with these parameters."""
    if role not in spec["inputs"]:
        return False
    where = spec.get("inputs_where", {}).get(role)  # absent: from a service of before
    if where is None:
        return True
    default = spec["params"].get("properties", {}).get(where["param"], {}).get("default")
    value = params.get(where["param"], default)
    return value is not None if where["values"] is None else value in where["values"]

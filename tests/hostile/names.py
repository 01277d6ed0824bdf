"""Names that are not for terminals: control characters, turned text, a megabyte of them."""

from collections.abc import Callable

import onnx
from onnx import helper

from tests.hostile.case import Hostile, each, family
from tests.hostile.graphs import HARMLESS
from tests.workers.formats.uploads import graph_model, tensor, value

REFUSED = {
    "nul": "a\0b",
    "newline": "a\nb",
    "return": "a\rb",
    "ansi-colour": "\x1b[31mred\x1b[0m",
    "ansi-title": "\x1b]0;owned\x07",
    "ansi-8bit": "\x9b2J",
    "backspace": "safe\b\b\b\bevil",
    "line-separator": "a\u2028b",
    "rtl-override": "a\u202egnp.exe",
    "isolate": "a\u2066b",
    "long": "n" * 5000,
    "megabyte": "n" * 1_000_000,
}
TAKEN = {
    "emoji": "\U0001f600",
    "joined": "\U0001f469\u200d\U0001f4bb",
    "accents": "Zalgo\u0301\u0327\u0334",
    "hebrew": "\u05e9\u05dc\u05d5\u05dd",
    "quote": "'; DROP TABLE models; --",
    "markup": "[bold red]x[/]",
    "html": "<script>alert(1)</script>",
    "format": "%s%n{0}{x.__class__}$HOME`id`",
    "path": "../../etc/passwd",
    "slashes": "/scope//layer:0",
    "space": " ",
}


def model(
    node: str = "n", operator: str = "Relu", domain: str = "", given: str = "x", taken: str = "y", weight: str = "w",
    dim: str = "batch", middle: str = "h",
) -> bytes:  # fmt: skip
    made = graph_model(
        [
            helper.make_node("MatMul", [given, weight], [middle], name="m"),
            helper.make_node(operator, [middle], [taken], name=node, domain=domain),
        ],
        [value(given, [dim, 4])],
        [value(taken, [dim, 3])],
        [tensor(weight, [[1.0] * 3] * 4)],
        domains=[domain] if domain else [],
    )
    return made.SerializeToString()


def placed(where: str, name: str) -> Callable[[], bytes]:
    if where == "operator":
        return lambda: model(operator=name, domain="own")
    return lambda: model(**{where: name})


def contradiction(name: str) -> bytes:
    """A checker's message is full of names: this node has one input too few."""
    made = onnx.ModelProto.FromString(model(node=name))
    del made.graph.node[1].input[:]
    return made.SerializeToString()


def produced_by(name: str) -> Callable[[], bytes]:
    def make() -> bytes:
        made = onnx.ModelProto.FromString(model())
        made.producer_name = made.doc_string = made.graph.doc_string = name
        return made.SerializeToString()

    return make


WHERE = ("node", "operator", "domain", "given", "taken", "weight", "dim", "middle")

CASES: list[Hostile] = family(
    "name",
    each({f"{where}-{key}": placed(where, name) for number, (key, name) in enumerate(REFUSED.items()) for where in (WHERE if number in (3, 11) else WHERE[number % 8 :][:2])}, "invalid_model", phrase="name"),
    each({f"{where}-{key}": placed(where, name) for number, (key, name) in enumerate(TAKEN.items()) for where in WHERE[number % 8 :][:3]}, *HARMLESS),
    each({f"complained-of-{key}": lambda name=name: contradiction(name) for key, name in (REFUSED | TAKEN).items()}),
    each({f"producer-{key}": produced_by(name) for key, name in REFUSED.items()}, "ready"),
)  # fmt: skip

"""Write `docs/reference/*.md` from the code: settings, formats, passes, transforms, runtimes, metrics, errors, commands.

python -m scripts.reference            write the pages
python -m scripts.reference --check    write nothing; exit 1 where a page differs or something has no description
"""

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel

from app import connection
from app.catalog.formats import FORMATS
from app.catalog.metrics import METRICS
from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import ByParameter, Params, PassSpec, RuntimeSpec, need_text
from app.catalog.transforms import Fixed, Random
from app.cli import app as command_line
from app.config import Settings
from app.errors import by_code, title_of

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
GENERATED = "<!-- Written by `make reference`; edit the code that it describes. -->"
UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
CLIENT_VARIABLES = {
    connection.URL_VARIABLE: "The service's address, for the commands and the client.",
    connection.KEY_VARIABLE: "The key that the commands and the client send.",
}


def main() -> int:
    """Write or check the pages; the exit status."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--check", action="store_true", help="write nothing")
    missing = undescribed()
    for name in missing:
        sys.stderr.write(f"{name} has no description\n")
    if given.parse_args().check:
        stale = differences()
        for name in stale:
            sys.stderr.write(f"docs/reference/{name} differs from the code: run `make reference`\n")
        return 1 if missing or stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 1 if missing else 0


def pages() -> dict[str, str]:
    """Every page: file name -> text."""
    makers: dict[str, Callable[[], Iterator[str]]] = {
        "settings.md": settings,
        "formats.md": formats,
        "passes.md": passes,
        "transforms.md": transforms,
        "runtimes.md": runtimes,
        "metrics.md": metrics,
        "errors.md": errors,
        "commands.md": commands,
    }
    return {name: "\n".join([GENERATED, "", *make()]).rstrip() + "\n" for name, make in makers.items()}


def differences() -> list[str]:
    """The pages whose file is missing or says something else, and files that are no page."""
    expected = pages()
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*")}
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def undescribed() -> list[str]:
    """What a reader would find without an explanation."""
    described: list[tuple[str, str | None]] = [
        (_variable(name), field.description) for name, field in Settings.model_fields.items()
    ]
    described += [
        (spec.name, spec.documentation if spec.title and spec.files else None) for spec in FORMATS.values()
    ]
    takers: list[PassSpec | RuntimeSpec] = [*PASSES.values(), *RUNTIMES.values()]
    for spec in takers:
        described += [(spec.name, spec.documentation if spec.title else None)]
        described += [
            (f"{spec.name}.{name}", field.description) for name, field in spec.params.model_fields.items()
        ]
    for transform in _transforms(Fixed) + _transforms(Random):
        described += [(transform.__name__, transform.__doc__)]
        described += [
            (f"{transform.__name__}.{name}", field.description)
            for name, field in transform.model_fields.items()
        ]
    described += [(f"{spec.name}'s preset", inspect.getdoc(spec.preset)) for spec in RUNTIMES.values()]
    described += [(spec.name, spec.documentation if spec.title else None) for spec in METRICS.values()]
    described += [(f"error {code}", cls.__doc__) for code, cls in by_code().items()]
    for path, command in _commands():
        described += [(path, command.help)]
        described += [(f"{path} {'/'.join(option.opts)}", option.help) for option in _options(command)]
    return [name for name, text in described if not (text or "").strip()]


def settings() -> Iterator[str]:
    yield from (
        "# Settings",
        "",
        "Environment variables, read once by each process. API, workers and commands read the same ones.",
        "",
    )
    rows = [
        (f"`{_variable(name)}`", _default(field.default), _cell(field.description))
        for name, field in Settings.model_fields.items()
    ]
    yield from _table(("variable", "default", "what it does"), rows)
    yield from ("", "Clients read two more:", "")
    yield from _table(
        ("variable", "what it does"), [(f"`{name}`", text) for name, text in CLIENT_VARIABLES.items()]
    )


def formats() -> Iterator[str]:
    yield from (
        "# Formats",
        "",
        "What a model can be uploaded as. Which format a file is of is found by its content, not by its name. When it is inspected "
        "it is converted on trial to everything that it can become, run on seeded inputs beside its own framework, and the "
        "difference is kept in the model's facts (`conversions`). A job converts where a pass or a runtime needs it, as a step "
        "of its own.",
    )
    for spec in FORMATS.values():
        yield from ("", f"## `{spec.name}`: {spec.title}", "", spec.documentation, "")
        facts = [
            ("upload", spec.files),
            ("becomes", _codes(spec.converts_to)),
            ("the uploader says", _codes(spec.declares) if spec.declares else "nothing"),
            ("measured as the reference", "in its own framework" if spec.reference else "no"),
        ]
        yield from _table(("", ""), facts)


def passes() -> Iterator[str]:
    yield from (
        "# Passes",
        "",
        "What a recipe is made of. A pass refuses a parameter that it does not know. The version goes up whenever the "
        "same input may give another output.",
    )
    for spec in PASSES.values():
        yield from ("", f"## `{spec.name}`: {spec.title}", "", inspect.cleandoc(spec.documentation), "")
        produces = _produces(spec)
        produces = f"`{spec.produces}`" if spec.produces else "the precision that came in"
        if spec.dialect:
            produces += f", in operators that only `{spec.dialect}` runtimes know"
        facts = [
            ("version", str(spec.version)),
            ("formats", _codes(spec.formats)),
            ("takes", _codes(spec.consumes)),
            ("leaves", produces),
            ("models over 2 GB", "yes" if spec.over_2gb else "no: refused before a job is queued"),
        ]
        facts += [
            (f"input `{role}`", need_text(need).replace("required-or-synthetic", "required or synthetic"))
            for role, need in spec.inputs.items()
        ]
        yield from _table(("", ""), facts)
        yield from _params(spec.params)


def transforms() -> Iterator[str]:
    yield from (
        "# Transforms",
        "",
        "What is done to each sample on its way to a network, as data: `do` names the transform, the other keys are its parameters. "
        "Keys that it does not know are refused. See [training](../training.md).",
    )
    kinds = (
        (
            "Of a dataset",
            "Said when it is uploaded (`transforms`), done in order, the same each time.",
            Fixed,
        ),
        (
            "Of training",
            "Said by a pass that trains (`augment`), drawn anew for each sample and epoch.",
            Random,
        ),
    )
    for title, text, union in kinds:
        yield from ("", f"## {title}", "", text)
        for transform in _transforms(union):
            yield from ("", f"### `{_name(transform)}`", "", inspect.cleandoc(transform.__doc__ or ""))
            yield from _params(transform, but="do")


def _transforms(union: Any) -> list[type[Params]]:
    """The classes of `Fixed` or `Random`."""
    return list(get_args(get_args(union)[0]))


def _name(transform: type[Params]) -> str:
    return str(get_args(transform.model_fields["do"].annotation)[0])


def runtimes() -> Iterator[str]:
    yield from (
        "# Runtimes",
        "",
        "What runs an engine. A target names a runtime and its parameters: "
        '`{"runtime": "onnxruntime-cpu", "params": {"threads": 2}}`. A job that names no recipe gets the runtime\'s preset.',
    )
    for spec in RUNTIMES.values():
        yield from ("", f"## `{spec.name}`: {spec.title}", "", inspect.cleandoc(spec.documentation), "")
        facts = [("version", str(spec.version)), ("device", spec.device), ("formats", _codes(spec.formats))]
        yield from _table(("", ""), [*facts, ("sparse weights", spec.sparsity)])
        yield from _params(spec.params)
        yield from ("", "### Preset", "", inspect.getdoc(spec.preset) or "")


def metrics() -> Iterator[str]:
    yield from (
        "# Metrics",
        "",
        "What accuracy means in an evaluation. A metric without labels compares the optimized model's outputs with "
        "the original's.",
        "",
    )
    rows = [
        (
            f"`{spec.name}`",
            _cell(f"**{spec.title}.** {inspect.cleandoc(spec.documentation)}"),
            "none" if spec.unit == "1" else spec.unit,
            _interval(spec.low, spec.high),
            "higher" if spec.higher_is_better else "lower",
            "yes" if spec.needs_labels else "no",
        )
        for spec in METRICS.values()
    ]
    yield from _table(("metric", "what it is", "unit", "range", "better", "labels"), rows)


def errors() -> Iterator[str]:
    yield from (
        "# Errors",
        "",
        "Every error is an `application/problem+json` object (RFC 9457) with `type`, `title`, `status`, `detail`, `code`, "
        "`retryable`, and where it applies `stage`, `node`, `param`, `hint` and `errors`. A failed job carries the same object "
        "in `problem`. Retryable: the same request may succeed later.",
        "",
    )
    rows = [
        (f"`{code}`", str(cls.http_status), _cell(title_of(cls)), "yes" if cls.retryable else "no")
        for code, cls in sorted(by_code().items())
    ]
    yield from _table(("code", "status", "title", "retryable"), rows)


def commands() -> Iterator[str]:
    yield from ("# Commands", "")
    for path, command in _commands():
        level = min(path.count(" ") + 2, 4)
        yield from (f"{'#' * level} `{path}`", "", inspect.cleandoc(command.help or ""), "")
        rows = [
            (_option_names(option), _cell(option.help), _option_default(option))
            for option in _options(command)
        ]
        if rows:
            yield from _table(("argument or option", "what it does", "default"), rows)
            yield ""


def _commands(command: Any = None, path: str = "burnish") -> Iterator[tuple[str, Any]]:
    """Every command that is not hidden, a group before its members: ("burnish jobs wait", command)."""
    command = command or typer.main.get_command(command_line)
    yield path, command
    for name, member in sorted(getattr(command, "commands", {}).items()):
        if not member.hidden:
            yield from _commands(member, f"{path} {name}")


def _options(command: Any) -> list[Any]:
    return [option for option in command.params if not option.hidden]


def _option_names(option: Any) -> str:
    annotation = option.type_descriptor.annotation
    kind = next(iter(get_args(annotation)), annotation)  # of list[Path]: Path
    if not option.opts[0].startswith("-"):
        return f"`{option.metavar or option.name.upper()}`" + ("" if option.required else " (optional)")
    shown = option.metavar or {str: "TEXT"}.get(kind, getattr(kind, "__name__", "VALUE").upper())
    value = "" if option.is_flag else f" {shown}"
    names = ", ".join(
        f"`{name}{value}`".replace("|", "\\|") for name in (*option.opts, *option.secondary_opts)
    )
    return names + (" (may be given again)" if option.multiple else "")


def _option_default(option: Any) -> str:
    shown = option.default
    return "" if shown in (None, False, "", []) or callable(shown) else _default(shown)


def _params(params: type[Params], but: str = "") -> Iterator[str]:
    schema = params.model_json_schema()
    rows = [
        (f"`{name}`", _kind(field), _default(field.get("default")), _cell(field.get("description")))
        for name, field in schema.get("properties", {}).items()
        if name != but
    ]
    if rows:
        yield ""
        yield from _table(("parameter", "type", "default", "what it does"), rows)


def _kind(schema: dict[str, Any]) -> str:
    """A JSON Schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in schema
    ]
    return " ".join([schema.get("type", "any"), *([", ".join(bounds)] if bounds else [])])


def _default(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, Path):
        value = str(value)
    if value is None or value == "":
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(f"`{one}`" for one in value) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        for size, unit in UNITS:
            if value >= size and value % size == 0:
                return f"`{value}` ({value // size} {unit})"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _interval(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return "any"
    return f"{'-∞' if low is None else f'{low:g}'} … {'∞' if high is None else f'{high:g}'}"


def _variable(name: str) -> str:
    return f"{Settings.model_config['env_prefix']}{name.upper()}"


def _produces(spec: PassSpec) -> str:
    if isinstance(spec.produces, ByParameter):
        each = (
            f"`{precision}` where `{spec.produces.param}` is `{value}`"
            for value, precision in spec.produces.values.items()
        )
        return ", ".join(each)
    return f"`{spec.produces}`" if spec.produces else "the precision that came in"


def _codes(values: frozenset[Any]) -> str:
    return ", ".join(f"`{value}`" for value in sorted(values))


def _cell(text: str | None) -> str:
    """Text that fits a table's cell."""
    return " ".join((text or "").split()).replace("|", "\\|")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    sys.exit(main())

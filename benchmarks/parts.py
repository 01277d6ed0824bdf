"""Benchmarks in parts, each a module whose `run` gives a table and says whether it shows what it is there to show."""

import argparse
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.written import write


def main(package: str, parts: Mapping[str, str], page: Path, arguments: Sequence[str] = ()) -> int:
    """Run parts by name, all where none is given; 1 where one did not show what it is there to show.

    `parts` says what each is; `--write` puts the tables into the page, between the marks of their names.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {page.name} too")
    parser.add_argument("parts", nargs="*", choices=[*parts, []], metavar="PART")
    given = parser.parse_args(arguments)
    failed = False
    for name in given.parts or parts:
        print(f"\n### {name}: {parts[name]}\n", flush=True)
        text, shown = importlib.import_module(f"{package}.{name}").run()
        print(text, flush=True)
        failed |= not shown
        if given.write:
            write(page, name, text)
    return int(failed)

"""What the Python bindings of TensorRT hold: every class with its attributes, read from a wheel without TensorRT's libraries.

    python scripts/tensorrt_names.py WHEEL OUT.json

The bindings need three libraries of NVIDIA's, which need a vendor's index and a GPU machine to be of use. Only a few C
functions of them are called, so libraries of these names with empty functions let the module be imported; it is then read
by `dir`, in a process of its own, and nothing is called. Needs `cc`, `readelf` and `nm`. Wheels of the bindings alone:
`pip download --no-deps tensorrt_cu13_bindings` (11) and `pip download --no-deps 'tensorrt_cu12_bindings<11'` (10).
"""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

READ = """
import importlib.util, inspect, json, sys
spec = importlib.util.spec_from_file_location("tensorrt", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
public = lambda thing: sorted(name for name in dir(thing) if not name.startswith("_"))
print(json.dumps({name: public(getattr(module, name)) if inspect.isclass(getattr(module, name)) else None
                  for name in public(module)}))
"""


def main() -> int:
    """Read a wheel, write the list; the exit status."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    given.add_argument("wheel", type=Path)
    given.add_argument("out", type=Path)
    arguments = given.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = names_of(arguments.wheel, Path(folder))
    version = arguments.wheel.name.split("-")[1]
    text = json.dumps({"wheel": arguments.wheel.name, "version": version, "names": names}, indent=1)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    return 0


def names_of(wheel: Path, folder: Path) -> dict[str, list[str] | None]:
    """{name in the module: the attributes of that class, or None where it is none}, with the package's own functions.

    Raises:
        subprocess.CalledProcessError: the module cannot be imported so; stderr says why.
    """
    with zipfile.ZipFile(wheel) as archive:
        module = Path(
            archive.extract(next(n for n in archive.namelist() if n.endswith("/tensorrt.so")), folder)
        )
    empty_libraries(module, folder)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(module)],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder)},
        check=True,
        capture_output=True,
        text=True,
    )
    names: dict[str, list[str] | None] = json.loads(done.stdout)
    with zipfile.ZipFile(wheel) as archive:
        package = ast.parse(archive.read("tensorrt_bindings/__init__.py"))
    functions = (node.name for node in package.body if isinstance(node, ast.FunctionDef))
    return names | {name: None for name in functions if not name.startswith("_")}


def empty_libraries(module: Path, folder: Path) -> None:
    """Libraries of the names that a module needs of NVIDIA's, with functions of the names that it misses."""
    needed = re.findall(r"\[(libnv\S+)\]", _said("readelf", "-d", str(module)))
    missing = [
        line.split()[-1]
        for line in _said("nm", "-D", "--undefined-only", str(module)).splitlines()
        if re.search(r" U (create|get|init)\w*(_INTERNAL|Registry|Version|Plugins)$", line)
    ]
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in missing))
    for name in needed:
        flags = ["-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run(["cc", *flags, str(source)], check=True)


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())

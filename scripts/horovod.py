"""Build Horovod for the PyTorch of this environment.

    python scripts/horovod.py environment FOLDER [PIP_ARGS…]     an environment with it, on top of this one
    python scripts/horovod.py wheel FOLDER [PIP_ARGS…]           the wheel alone

Horovod 0.28.1, the last release, asks for C++14, and PyTorch's headers need C++17; so the sources are changed in that one
number. It is built with gloo alone: no MPI; NCCL where HOROVOD_GPU_OPERATIONS=NCCL is set and there is CUDA.
It needs a C++ compiler and make, and takes some minutes.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
STANDARD = re.compile(r"(set\(CMAKE_CXX_STANDARD )14\)")
SWITCHES = {
    "HOROVOD_WITH_PYTORCH": "1",
    "HOROVOD_WITHOUT_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "HOROVOD_WITHOUT_MPI": "1",
    "HOROVOD_WITH_GLOO": "1",
}


def main(what: str, folder: Path, pip_args: list[str]) -> None:
    """Leave in `folder` what was asked for."""
    if what == "wheel":
        build(folder, pip_args)
        return
    with tempfile.TemporaryDirectory() as name:
        build(Path(name), pip_args)
        (wheel,) = Path(name).glob("*.whl")
        pip(layered(folder), "install", "--no-deps", "--force-reinstall", str(wheel))


def build(out: Path, pip_args: list[str]) -> None:
    """Leave the wheel in `out`."""
    for tool in (os.environ.get("CXX", "c++"), "make"):
        if shutil.which(tool) is None:
            raise SystemExit(
                f"Horovod is compiled here, and there is no `{tool}`: install a C++ compiler and make"
            )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tools = layered(folder / "tools")
        pip(
            tools,
            "install",
            "--ignore-installed",
            "--requirement",
            f"{REQUIREMENTS / 'horovod-build.txt'}",
            *pip_args,
        )
        source = fetched(tools, folder, pip_args)
        raise_standard(source)
        path = os.pathsep.join([str(tools.parent), os.environ["PATH"]])
        command = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source))
        pip(tools, *command, PATH=path, **SWITCHES)


def layered(folder: Path) -> Path:
    """An environment that has, beside its own packages, those of this one; its Python."""
    venv.create(folder, symlinks=True)
    python = folder.resolve() / "bin" / "python"
    here, own = sysconfig.get_paths()["purelib"], sysconfig.get_paths(vars={"base": str(folder)})["purelib"]
    Path(own, "beneath.pth").write_text(f"import site; site.addsitedir({here!r})\n", encoding="utf-8")
    return python


def fetched(python: Path, folder: Path, pip_args: list[str]) -> Path:
    """The sources, unpacked."""
    lock = str(REQUIREMENTS / "horovod.txt")
    command = ("download", "--no-deps", "--no-binary=:all:", "--no-build-isolation", "--requirement", lock)
    pip(python, *command, "--dest", str(folder), *pip_args)
    (archive,) = folder.glob("horovod-*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def raise_standard(source: Path) -> None:
    """C++17 in place of C++14 in what is built of Horovod itself."""
    for file in (source / "CMakeLists.txt", source / "horovod" / "torch" / "CMakeLists.txt"):
        text, count = STANDARD.subn(r"\g<1>17)", file.read_text(encoding="utf-8"))
        if count == 0:
            raise SystemExit(
                f"{file.relative_to(source)} sets no C++14: look at what this version of Horovod needs"
            )
        file.write_text(text, encoding="utf-8")


def pip(python: Path, *arguments: str, **environment: str) -> None:
    """Run this environment's pip for another one."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *arguments], check=True, env={**os.environ, **environment})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])

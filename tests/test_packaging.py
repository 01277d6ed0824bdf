"""The package is whole, and the locks fit it."""

import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def lock(name: str) -> dict[str, str]:
    """Package -> version. Every line is a pin or a comment."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in pins)
    return dict(line.split("==") for line in pins)


@pytest.mark.parametrize(
    ("name", "extras"),
    [("api", []), ("worker", ["worker"]), ("worker-gpu", ["worker-gpu"]), ("dev", ["worker", "demo", "dev"])],
)
def test_locks_hold_what_the_project_asks_for(name: str, extras: list[str]) -> None:
    pins = lock(name)
    wanted = [*PROJECT["dependencies"], *(one for extra in extras for one in EXTRAS[extra])]
    for requirement in map(Requirement, wanted):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_a_version_is_the_same_in_every_lock() -> None:
    full = lock("dev")
    for name in ("api", "worker"):
        assert lock(name).items() <= full.items()
    shared = full.keys() & lock("worker-gpu").keys()
    assert {package: full[package] for package in shared} == {
        package: lock("worker-gpu")[package] for package in shared
    }


def test_this_environment_is_the_locked_one() -> None:
    # not what setuptools carries inside and puts on the path once somebody imports it, as PyTorch's compiler does
    places = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    found = distributions(path=places)
    installed = {canonicalize_name(one.name): one.version.partition("+")[0] for one in found}
    wanted = {**lock("dev"), **lock("test-models")}
    assert {package: installed.get(package) for package in wanted} == wanted


def test_the_gpu_extra_differs_by_its_onnxruntime_alone() -> None:
    swapped = [
        one.replace("onnxruntime>=1.32", "onnxruntime-gpu[cuda,cudnn]>=1.31") for one in EXTRAS["worker"]
    ]
    assert EXTRAS["worker-gpu"] == swapped


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with Burnish installed from its wheel, as users install it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [
        *pip,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(_copy(folder)),
    ]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def _copy(folder: Path) -> Path:
    """The files that git knows: a build leaves its own behind."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    target = folder / "source"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())
    return target


def test_an_installed_burnish_can_migrate(installed: Path, tmp_path: Path) -> None:
    script = "import app.migrate as m; m.upgrade(); assert m.is_current(); print(m.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "BURNISH_DATA_DIR": str(tmp_path / "data"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(installed / "app/migrate.py")
    assert (tmp_path / "data" / "burnish.db").exists()


def test_the_wheel_holds_every_file_of_the_service_and_nothing_else(installed: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "app", "workers", "migrations"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    wanted = {name for name in listed.stdout.split() if (ROOT / name).is_file()}
    packed = {
        str(path.relative_to(installed))
        for path in installed.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ".dist-info" not in str(path)
    }
    assert packed == wanted

"""Make the pictures of `docs/images/`: real jobs on the demo's network, their reports in Chromium.

    python -m scripts.screenshots [FOLDER]

It takes a few minutes and needs Chromium (`apt-get install chromium`). With the folder of an earlier run, which it names, the
reports are written anew from what the jobs of that run said.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from app.client import Client
from app.embedded import Embedded
from app.reports.schemas import Report
from demo import digits
from scripts.chromium import Page, browser, chromium
from workers.reporting import html

IMAGES = Path(__file__).resolve().parent.parent / "docs/images"
WIDE, PHONE = 1180, 390
SCALE = 1.25  # pixels of the picture for one of the page
COLOURS = 128  # flat pages need few, and a picture of few is small
LARGEST_BYTES = 200_000
DRAWN = "document.documentElement.dataset.drawn !== undefined"

PICTURES = (  # report, part, width, height, dark
    ("optimize", None, WIDE, 930, False),
    ("optimize", "latency", WIDE, 850, True),
    ("optimize", None, PHONE, 844, True),
    ("profile", "layers", WIDE, 1000, False),
    ("profile", "roofline", WIDE, 660, True),
    ("profile", "layers", PHONE, 844, False),
)


def main() -> int:
    """Run the jobs, take the pictures; the exit status."""
    if (executable := chromium()) is None:
        print("Chromium is not installed: apt-get install chromium", file=sys.stderr)  # noqa: T201
        return 2
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
    else:
        folder = Path(tempfile.mkdtemp(prefix="burnish-reports-"))
        do_jobs(folder)
    reports = {name: written(folder, name) for name in ("optimize", "profile")}
    IMAGES.mkdir(exist_ok=True)
    with browser(executable) as page:
        for name, part, width, height, dark in PICTURES:
            size = take(
                page, reports[name], target_of(name, part, width, dark), part, (width, height), dark=dark
            )
            print(f"{target_of(name, part, width, dark)}: {size} bytes, from {reports[name]}")  # noqa: T201
    return 0


def target_of(name: str, part: str | None, width: int, dark: bool) -> Path:
    """A picture's file."""
    words = ("report", name, part, "phone" if width == PHONE else None, "dark" if dark else "light")
    return IMAGES / f"{'-'.join(word for word in words if word)}.png"


def written(folder: Path, name: str) -> Path:
    """The page of a report."""
    report = Report.model_validate_json((folder / f"{name}.json").read_bytes())
    target = folder / f"{name}.html"
    target.write_text(html.page(report), encoding="utf-8")
    return target


def do_jobs(folder: Path) -> None:
    """An optimization and a profile, done by the embedded service; their reports as JSON."""
    split = digits.load()
    digits.export(digits.train(split), folder / "digits.onnx")
    files = digits.write_data(split, folder)
    with Embedded(folder / "data") as service, Client(service.url, service.api_key) as client:
        model = client.wait_model(client.upload_model(folder / "digits.onnx")["id"])["id"]
        calibration, evaluation = (
            client.wait_dataset(client.upload_dataset(file)["id"])["id"] for file in files
        )
        common = {"subject": model, "targets": [{"runtime": "onnxruntime-cpu", "params": {"threads": 1}}]}
        passes = [
            {"pass": "simplify"},
            {"pass": "quantize-static", "inputs": {"calibration": calibration}},
        ]
        optimize = {
            "kind": "optimize",
            "recipe": {"schema": 1, "passes": passes},
            "evaluation": {"dataset": evaluation, "metric": "top1"},
            "budget": {"max_drop": 0.05},
        }
        profile = {"kind": "profile", "data": evaluation}
        for body in (optimize, profile):
            job: dict[str, Any] = client.wait(client.submit({**common, **body})["id"])
            if job["status"] != "succeeded":
                raise SystemExit(f"{job['kind']}: {job['problem']}\n{client.logs(job['id'])}")
            client.download(job["result"]["artifacts"]["report-json"], folder / f"{job['kind']}.json")


def take(
    page: Page, report: Path, target: Path, part: str | None, size: tuple[int, int], *, dark: bool
) -> int:
    """One picture of a report, from a part on; how large the file is."""
    page.open(report.as_uri(), width=size[0], height=size[1], dark=dark, scale=SCALE)
    page.wait_for(DRAWN)
    if part is not None:
        page.value(f"document.getElementById('{part}').closest('section').scrollIntoView()")
    page.screenshot(target)
    with Image.open(target) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
    assert target.stat().st_size < LARGEST_BYTES
    return target.stat().st_size


if __name__ == "__main__":
    sys.exit(main())

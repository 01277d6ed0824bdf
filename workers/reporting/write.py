"""The files of a report, and the artifacts that they become."""

from collections.abc import Mapping
from pathlib import Path

from app.reports.schemas import Report
from workers.reporting import html, markdown
from workers.reporting.distribution import Runs, write_runs

MEDIA_HTML = "text/html; charset=utf-8"
MEDIA_MARKDOWN = "text/markdown; charset=utf-8"
MEDIA_JSON = "application/json"
MEDIA_NPZ = "application/octet-stream"
FORMS = {  # role of the artifact: file, media type
    "report": ("report.html", MEDIA_HTML),
    "report-markdown": ("report.md", MEDIA_MARKDOWN),
    "report-json": ("report.json", MEDIA_JSON),
}
SAMPLES = "report-samples"


def write_report(
    report: Report, folder: Path, runs_ns: Mapping[str, Runs] | None = None
) -> dict[str, tuple[Path, str]]:
    """Write every form into a folder, and the timed runs that it tells of: path and media type, by the artifact's role."""
    texts = {
        "report": html.page(report),
        "report-markdown": markdown.text(report),
        "report-json": report.model_dump_json(by_alias=True, indent=1),
    }
    written = {}
    for role, (name, media_type) in FORMS.items():
        path = folder / name
        path.write_text(texts[role], encoding="utf-8")
        written[role] = (path, media_type)
    if runs_ns:
        written[SAMPLES] = (write_runs(folder / "latency.npz", runs_ns), MEDIA_NPZ)
    return written

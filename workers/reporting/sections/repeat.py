"""How to do it again."""

import json

from app.reports.schemas import Report
from workers.reporting.blocks import Block, Cell, Code, Column, Folded, Listing, Paragraph, Section, Table

WHERE_ALIKE = (
    "The same inputs, recipe and seed give the same engine, to the byte where the runtime builds it alike; steps that are still "
    "stored are taken from the cache, unless `--no-cache`. Measurements are always made anew, so their numbers differ within their "
    "intervals."
)


def repeat(report: Report) -> Section | None:
    """The command, the seed and the digests."""
    commands = f"burnish report {report.job} --format json -o report.json\n{report.command}\n"
    body = "burnish jobs submit report.json"
    rows = [
        [Cell("subject"), Cell([Code(report.subject["id"])]), Cell([Code(report.subject["digest"])])],
        *(
            [Cell(one["role"]), Cell([Code(one["id"])]), Cell([Code(one["digest"])])]
            for one in report.datasets
        ),
    ]
    seed = report.request["options"].get("seed", 0)
    blocks: list[Block] = [
        Listing("Commands", commands, "sh"),
        Paragraph(
            [
                f"Seed {seed}. ",
                Code(body),
                " sends the body as it was, every default filled in. ",
                WHERE_ALIKE.replace("`", ""),
            ]
        ),
        Table("What it was made from, by SHA-256.", [Column("role"), Column("id"), Column("digest")], rows),
        Folded(
            "The job's body",
            [Listing("Body", json.dumps(report.request, indent=2, ensure_ascii=False), "json")],
        ),
    ]
    return Section("repeat", "How to repeat it", blocks, first=False)

"""What was asked for."""

import json

from app.reports.schemas import Report
from workers.bundle.text import shown
from workers.reporting.blocks import Bullets, Code, Listing, Section, Text


def recipe(report: Report) -> Section | None:
    """The passes in order, and the recipe as it is sent."""
    passes: list[Text] = [
        [
            Code(step["pass"]),
            f" version {step.get('version')}: ",
            Code(shown(step["params"]) or "no parameters"),
        ]
        for step in report.recipe["passes"]
    ]
    notes: list[Text] = [[note] for note in report.recipe.get("notes", [])]
    told = passes or [["No pass: the engine was built from the model as it was uploaded."]]
    text = json.dumps(report.recipe, indent=2, ensure_ascii=False)
    return Section(
        "recipe", "Recipe", [Bullets([*told, *notes]), Listing("Recipe as JSON", text, "json")], first=False
    )

"""A child that does two stored steps and brings one engine, whatever the recipe says."""

import hashlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # it runs in a folder of its own
from tests.workers import fake_child


class StormChild(fake_child.FakeChild):
    """Runs the same list for every job."""

    def run(self, script: list[list[Any]]) -> None:
        job, marks = self.assignment["job_id"], str(Path(self.assignment["scratch"]) / "marks")
        one, two = (hashlib.sha256(f"{job} {name}".encode()).hexdigest() for name in ("one", "two"))
        super().run(
            [
                ["print", "a line of the log"],
                ["progress", "pass:one", 0, 2],
                ["step", "one", one, marks],
                ["sleep", 0.5],
                ["progress", "pass:two", 1, 2],
                ["step", "two", two, marks],
                ["sleep", 0.5],
                ["artifacts", f"the engine of {job}"],
            ]
        )


if __name__ == "__main__":
    fake_child.FakeChild = StormChild  # type: ignore[misc]
    fake_child.main()

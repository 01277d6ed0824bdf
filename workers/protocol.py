"""What child and supervisor say to each other: JSON lines, on a pipe of their own, never on stdout where libraries print.

Child to supervisor (those marked * wait for an answer on the child's stdin):

| type | fields | meaning |
| --- | --- | --- |
| progress | stage, done, total, message | how far it is; also proof that it does not hang |
| step | index, name, status, cached, seconds, key, facts | a step of the job began or ended |
| lookup* | key | is this step stored? → {found, digest, root, facts, seconds} |
| store* | key, name, root, facts, seconds | keep this step's files → {digest, root} |
| forget* | key | what is stored under this key is of no use any more → {} |
| acquire* | device | wait for the right to measure alone on a device → {} |
| release* | device | give it back → {} |
| gather* | counts, work | wait for so many workers to train with → {count, folder (where their relay's socket is)}, or {problem} |
| dismiss* | | they are not needed any more → {} |
| sign* | manifest | sign this manifest's text → {signature: text, or null where there is no key} |
| hand_over | why | all is built and stored, and runs only where the assignment's `measuring_queue` leads; its last line |
| result | result | the attempt succeeded; its last line |
| problem | problem, result (or null), again | the attempt failed; its last line. `again`: another may do better, as if this child had died |

`root` in an answer is a folder that the child must not write to.

The `result` of an optimize job: {result (as in api.md, less artifacts' ids), artifacts: [{kind, filename, media_type,
path, manifest, inputs: [{role, id, digest}]}], measurements: [{side, name, unit, value, low, high, samples, machine}]}.
`artifacts[].role` names the key under which the job's result shows the id. The `result` of an inspection:
{root (the tree's files), format, signature, facts, structure} for a model, {root, format, samples, inputs, labels} for a dataset.
"""

import json
import os
import sys
from typing import IO, Any


class SupervisorPipe:
    """The child's end."""

    def __init__(self, out: IO[str], answers: IO[str]):
        self._out = out
        self._answers = answers

    @classmethod
    def take_stdio(cls) -> "SupervisorPipe":
        """Keep stdin and stdout for the protocol; from here on, what anybody prints goes to stderr."""
        out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
        answers = os.fdopen(os.dup(0), "r", encoding="utf-8")
        os.dup2(2, 1)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        sys.stdout = sys.stderr
        return cls(out, answers)

    def tell(self, type_: str, **fields: Any) -> None:
        """Say something that needs no answer."""
        self._out.write(json.dumps({"type": type_, **fields}, allow_nan=False) + "\n")
        self._out.flush()

    def ask(self, type_: str, **fields: Any) -> dict[str, Any]:
        """Say something and wait for the answer.

        Raises:
            EOFError: the supervisor is gone.
        """
        self.tell(type_, **fields)
        line = self._answers.readline()
        if not line:
            raise EOFError("the supervisor is gone")
        answer: dict[str, Any] = json.loads(line)
        return answer

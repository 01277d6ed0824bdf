"""Where a training stands, as JSON: what a checkpoint holds besides tensors."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr

from workers.training.report import Epoch, TrainingReport


class Progress(BaseModel):
    """`epoch` and `step` (of the epoch) are the next ones, `done` the steps of all epochs. `waited`: epochs since the best one."""

    model_config = ConfigDict(extra="forbid")

    epoch: int = 0
    step: int = 0
    done: int = 0
    kept: int = 0  # checkpoints
    before: float | None = None
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    total: float = 0.0  # of the epoch's losses
    parts: dict[str, float] = {}
    learning_rate: float = 0.0
    last_loss: float = 0.0
    history: list[Epoch] = []
    rows: list[dict[str, Any]] = []
    resumed_from: list[int] = []
    seconds: float = 0.0
    training_seconds: float = 0.0  # of steps alone, reading included
    _since: float | None = PrivateAttr(default=None)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of the block."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self.stop_clock()
            self._since = None

    def stop_clock(self) -> None:
        """Take in the time until now."""
        if self._since is not None:
            now = time.monotonic()
            self.seconds += now - self._since
            self._since = now

    def step_done(self, loss: float, parts: dict[str, float], learning_rate: float) -> None:
        """Go one step on."""
        finite = loss - loss == 0  # a step that was skipped for fp16's range counts for nothing
        if finite:
            self.total += loss
            self.last_loss = loss
            self.parts = {name: self.parts.get(name, 0.0) + value for name, value in parts.items()}
        self.learning_rate = learning_rate
        self.step += 1
        self.done += 1

    def epoch_done(self, value: float | None, *, improved: bool) -> None:
        """Go on to the next epoch."""
        self.epoch += 1
        self.waited = 0 if improved else self.waited + 1
        if improved:
            self.best_epoch = self.epoch
        steps = max(1, self.step)
        told = Epoch(
            epoch=self.epoch,
            loss=self.total / steps,
            parts={name: total / steps for name, total in self.parts.items()},
            learning_rate=self.learning_rate,
            score=value,
        )
        self.history.append(told)
        scalars = {"epoch/loss": told.loss, **{f"epoch/{name}": one for name, one in told.parts.items()}}
        self.note({**scalars, **({} if value is None else {"epoch/score": value})})
        self.step, self.total, self.parts = 0, 0.0, {}

    def note(self, numbers: dict[str, float]) -> None:
        """Remember scalars of the steps so far."""
        self.rows.append({"step": self.done, "time": time.time(), **numbers})

    def report(
        self, *, metric: str | None, stopped_early: bool, samples: int, **facts: Any
    ) -> TrainingReport:
        """What is told at the end; `samples` are those of a step."""
        return TrainingReport(
            steps=self.done,
            epochs=self.epoch,
            history=self.history,
            metric=metric,
            before=self.before,
            best=self.best,
            best_epoch=None if metric is None else self.best_epoch,
            stopped_early=stopped_early,
            resumed_from=self.resumed_from,
            seconds=round(self.seconds, 3),
            samples_per_second=round(self.done * samples / max(self.training_seconds, 1e-9), 1),
            **facts,
        )

"""Epochs and steps: the same for everything that trains, on one process or several, and from wherever an attempt ended.

What a step does follows from the seed, its number and the weights alone, so that a training that was broken off and resumed
ends with the same weights as one that ran through.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from app.catalog.pass_params.training import TrainingParams
from app.errors import IncompatibleRecipe, InvalidDataset, InvalidParams
from workers.training.averaging import Average
from workers.training.checkpoints import Trained, keep, restore
from workers.training.group import Group
from workers.training.optimizers import gradients, optimizer_of, set_rate, trained
from workers.training.phases import UNMEASURED, Phases
from workers.training.precision import Precision
from workers.training.progress import Progress
from workers.training.report import TrainingReport
from workers.training.running import Step, not_finite
from workers.training.scalars import MOST_POINTS
from workers.training.schedules import rate
from workers.training.scoring import Scoring, score
from workers.training.task import STAGE, Batch, Batches, Task
from workers.training.weights import save_tensors, state_of
from workers.training.zeros import KeptZeros, zeros_of

Tell = Callable[[dict[str, Any]], None]
MOST_SKIPPED = 30  # steps in a row: the loss scale is down by 2 to the 30th then
TELL_SECONDS = 1.0


class Loop:
    """One training in one process. `out` gets checkpoints; `checkpoint` is a folder that an earlier attempt kept.

    `phases` is told what a step is made of.
    """

    def __init__(
        self,
        task: Task,
        batches: Batches,
        validation: Batches | None,
        scoring: Scoring,
        params: TrainingParams,
        group: Group,
        tell: Tell,
        *,
        seed: int,
        device: torch.device,
        out: Path,
        checkpoint_seconds: float,
        checkpoint: Path | None = None,
        phases: Phases = UNMEASURED,
    ):
        phases.begin(task)
        self._phases = phases
        self._task, self._batches, self._validation = task, batches, validation
        self._scoring, self._params, self._group, self._tell = scoring, params, group, tell
        self._seed, self._device, self._out = seed, device, out
        self._checkpoint_seconds = checkpoint_seconds
        self._per_epoch = steps_of(batches.count, params)
        self._weights = _counted(task.network)
        zeros = zeros_of(task.network, params.keep_zeros)
        self._kept_zero = sum(zeros.values())
        if not self._weights["trained"]:
            raise IncompatibleRecipe(
                "the network has no weights that could be trained",
                stage=STAGE,
                hint="leave the pass out of the recipe",
            )
        step = Step(task, phases)
        self._wrapped = group.wrap(step)
        self._zeros = KeptZeros(task.network, zeros)
        helpers = list(step.helpers)
        self._held = Trained(
            task.network,
            helpers,
            optimizer_of(params, task.network, helpers),
            None if params.ema_decay is None else Average(task.network, params.ema_decay),
        )
        self._precision = Precision(params.precision, device)
        self._progress = Progress()
        self._kept, self._told = time.monotonic(), 0.0
        if checkpoint is not None:
            state = restore(self._held, checkpoint, group)
            self._precision.restore(state["precision"])
            self._progress = Progress.model_validate(state["progress"])
            self._progress.resumed_from.append(self._progress.done)
            if self._held.average is not None:
                self._held.average.steps = self._progress.done

    @property
    def steps(self) -> int:
        """The steps of all epochs."""
        return self._per_epoch * self._params.epochs

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Scalars so far, see `scalars.Row`."""
        return self._progress.rows

    def run(self) -> TrainingReport:
        """Train to the end. The network is left with its best weights, or the last ones where nothing tells which are best."""
        progress = self._progress
        with progress.timed():
            if self._validation is not None and progress.done == 0:
                self._score()
                progress.before = progress.best
            while not self._is_over():
                self._epoch()
        self._settle()
        return progress.report(
            metric=self._scoring.metric if self._validation is not None else None,
            stopped_early=progress.epoch < self._params.epochs,
            samples=self._params.batch_size,
            precision=self._precision.facts(),
            loader=self._batches.facts(),
            processes=self._group.world,
            weights=self._weights,
            kept_zero=self._kept_zero,
            layers=_layers(self._task.network),
        )

    def save(self, path: Path) -> None:
        """Write the network's weights as `run` left them, whole; every process calls it."""
        save_tensors(state_of(self._task.network), path, self._group)

    def _epoch(self) -> None:
        progress = self._progress
        _to_training(self._task.network, self._params.freeze_batch_norm)
        since = time.monotonic()
        for batch in self._phases.reading(self._batches, progress.epoch, progress.step):
            due = self._step(batch)
            progress.training_seconds += time.monotonic() - since
            self._say()
            if due and progress.step < self._per_epoch:  # the last step is kept with the epoch's score
                self._keep()
            since = time.monotonic()
        self._score_epoch()
        due = float(self._group.sum(torch.tensor(self._due(), device=self._device))) > 0
        if due or self._is_over():
            self._keep()

    def _step(self, batch: Batch) -> bool:
        """One step of the optimizer; whether a checkpoint is due, by the main process's clock."""
        progress, optimizer = self._progress, self._held.optimizer
        torch.manual_seed(_mixed(self._seed, progress.done, self._group.rank))
        learning_rate = rate(self._params, progress.done, self.steps)
        set_rate(optimizer, learning_rate)
        self._task.before_step(progress.done, self.steps)
        optimizer.zero_grad(set_to_none=True)
        loss, parts = self._backward(batch)
        with self._phases.of("optimizer"):
            self._precision.unscale(optimizer)
            self._zeros.clear_gradients()
            norm = float(self._group.norm(gradients(self._held.parameters().values())))
        told = torch.tensor([loss, self._due(), *parts.values()], dtype=torch.float64)
        total = self._group.sum(told.to(self._device)).cpu().tolist()
        loss, means = total[0] / self._group.world, [value / self._group.world for value in total[2:]]
        self._check(batch, loss, norm)
        with self._phases.of("optimizer"):
            self._clip(norm)
            if self._precision.step(optimizer) and self._held.average is not None:
                self._held.average.update()
        progress.step_done(loss, dict(zip(parts, means, strict=True)), learning_rate)
        self._note(loss, norm, learning_rate)
        return bool(total[1] > 0)

    def _backward(self, batch: Batch) -> tuple[float, dict[str, float]]:
        """Gradients of the batch, computed in parts; the means over the parts of the loss and of what it is made of."""
        pieces = list(_pieces(batch, self._params.accumulate))
        losses: list[Tensor] = []
        told: list[dict[str, float]] = []
        for number, piece in enumerate(pieces):
            more = number < len(pieces) - 1
            adding: AbstractContextManager[None] = (
                self._group.accumulating(self._wrapped) if more else nullcontext()
            )
            with adding:
                with self._precision.autocast():
                    loss, parts = self._wrapped(piece)
                self._check_depends(loss)
                with self._phases.of("backward"):
                    self._precision.backward(loss / len(pieces))
            losses.append(loss.detach())
            told.append(parts)
        means = {name: sum(part[name] for part in told) / len(told) for name in sorted(told[0])}
        return float(torch.stack(losses).double().mean()), means

    def _check_depends(self, loss: Tensor) -> None:
        if not loss.requires_grad:
            raise InvalidParams(
                f"the output {self._scoring.output!r} does not change with any weight, so nothing can be learned from it",
                stage=STAGE,
                param="output",
                hint=f"train another output: {', '.join(entry['name'] for entry in self._task.outputs)}",
            )

    def _check(self, batch: Batch, loss: float, norm: float) -> None:
        """Raises where the step cannot be taken and no smaller scale of the loss would help; see `not_finite`."""
        finite = isfinite(loss) and isfinite(norm)
        if finite or (self._precision.forgives and self._precision.skipped_in_a_row < MOST_SKIPPED):
            return
        raise not_finite(self._task, batch, self._progress.done + 1, loss)

    def _clip(self, norm: float) -> None:
        most = self._params.clip_norm
        if most is not None and most < norm < inf:
            for gradient in gradients(self._held.parameters().values()):
                gradient.mul_(most / norm)

    def _score_epoch(self) -> None:
        """Score what would be left if training ended here, and note it as the epoch's."""
        before = self._progress.best
        value = self._score() if self._validation is not None else None
        self._progress.epoch_done(value, improved=self._progress.best != before)

    def _score(self) -> float:
        """The score of the average, or of the weights where none is kept; the best ones are remembered."""
        assert self._validation is not None
        average = self._held.average
        with average.in_place() if average is not None else nullcontext():
            self._group.align(self._task.network)
            value = score(self._task, self._validation, self._scoring, self._group, self._device)
            if not isfinite(value):
                raise InvalidParams(
                    f"the {self._scoring.metric} of the validation data is {value} after {self._progress.done} steps",
                    stage=STAGE,
                    param="learning_rate",
                    hint="look for NaN in the validation data; else lower learning_rate or set clip_norm",
                )
            if self._scoring.better(value, self._progress.best):
                self._progress.best = value
                self._held.remember()
        return value

    def _is_over(self) -> bool:
        progress, patience = self._progress, self._params.patience
        out_of_patience = patience is not None and progress.waited >= patience
        return out_of_patience or progress.epoch >= self._params.epochs

    def _settle(self) -> None:
        """Leave the network with what is best."""
        network, average = self._task.network, self._held.average
        if self._validation is not None:
            self._held.leave_best()
        elif average is not None:
            average.leave()
        self._group.align(network)
        network.eval()

    def _due(self) -> float:
        """1 in the main process where a checkpoint is due, else 0: summed up, all processes know."""
        return float(self._group.is_main and time.monotonic() - self._kept >= self._checkpoint_seconds)

    def _keep(self) -> None:
        progress = self._progress
        self._group.align(self._task.network)
        progress.stop_clock()
        state = {"precision": self._precision.state(), "progress": progress.model_dump(mode="json")}
        keep(self._held, state, self._out, progress.kept, self._group, self._tell_kept)
        progress.kept += 1
        self._kept = time.monotonic()

    def _tell_kept(self, folder: Path) -> None:
        self._tell({"kind": "checkpoint", "folder": str(folder)})

    def _say(self) -> None:
        now = time.monotonic()
        if not self._group.is_main or now - self._told < TELL_SECONDS:
            return
        self._told = now
        progress = self._progress
        message = f"epoch {progress.epoch + 1} of {self._params.epochs}, loss {progress.last_loss:.4g}"
        if progress.best is not None:
            message += f", best {self._scoring.metric} {progress.best:.4g}"
        self._tell({"kind": "progress", "done": progress.done, "total": self.steps, "message": message})

    def _note(self, loss: float, norm: float, learning_rate: float) -> None:
        every = max(1, self.steps // MOST_POINTS)
        if self._progress.done % every == 0 and isfinite(loss) and isfinite(norm):
            self._progress.note(
                {"train/loss": loss, "train/gradient_norm": norm, "train/learning_rate": learning_rate}
            )


def steps_of(count: int, params: TrainingParams) -> int:
    """The steps of an epoch.

    Raises:
        InvalidDataset: there are fewer samples than one step takes.
    """
    if count < params.batch_size:
        raise InvalidDataset(
            f"the training data have {count} samples, one step takes {params.batch_size}",
            stage=STAGE,
            param="batch_size",
            hint=f"set batch_size to {count} or less, or give more data",
        )
    return count // params.batch_size


def _pieces(batch: Batch, parts: int) -> Iterator[Batch]:
    size = len(batch.indices) // parts
    for start in range(0, size * parts, size):
        cut = slice(start, start + size)
        yield Batch(
            tuple(values[cut] for values in batch.inputs),
            None if batch.labels is None else batch.labels[cut],
            batch.indices[cut],
        )


def _to_training(network: nn.Module, freeze_batch_norm: bool) -> None:
    network.train()
    if freeze_batch_norm:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _counted(network: nn.Module) -> dict[str, int]:
    """Elements of weights before they are spread over processes: `trained` and `frozen`."""
    every = sum(one.numel() for one in network.parameters())
    own = sum(one.numel() for one in trained(network).values())
    return {"trained": own, "frozen": every - own}


def _layers(network: nn.Module) -> dict[str, int]:
    modules = list(network.modules())
    return {
        "batch_norms": sum(isinstance(module, _BatchNorm) for module in modules),
        "dropouts": sum(isinstance(module, _DropoutNd) and module.p > 0 for module in modules),
    }


def _mixed(*numbers: int) -> int:
    """A seed of 63 bits from several numbers, such that neighbours have nothing in common."""
    found = 0
    for number in numbers:
        found = ((found ^ number) * 0x9E3779B97F4A7C15 + 0x7F4A7C15) % 2**64
        found ^= found >> 29
    return found >> 1

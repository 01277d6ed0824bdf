"""60,000 PNG images in a tar, read for a second epoch as training reads them, beside a plain DataLoader; and the memory that it takes.

python -m benchmarks.training.data_path TAR COUNT    what one process reads and takes: JSON on standard output
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils.data import DataLoader

from app.catalog.pass_params.training import LoaderParams
from benchmarks.table import table
from benchmarks.training.common import INPUT, Room, one_thread, room
from benchmarks.training.images_tar import SIDE, Some, TarImages, write_tar
from tests.accuracy import fashion
from workers.assignment import DatasetFiles
from workers.context import PassContext
from workers.datasets.opening import FILES, TAR
from workers.onnx_files import tree_digest
from workers.samples import open_samples
from workers.training.task import Batches

FEW, MANY = 6000, 60_000
BATCH, SIZE = 100, 32
TURNS, PLAIN = 3, 6000  # turns, and how many samples the plain loader reads in each
DECLARED = {
    "fields": {INPUT: "png", "labels": "cls"},
    "transforms": [
        {"do": "resize", "height": SIZE, "width": SIZE},
        {"do": "normalize"},
        {"do": "layout", "to": "channels-first"},
    ],
}
LEAST = 5.0  # times as many samples a second as the plain DataLoader
MOST_GROWTH = 1.1  # of resident memory, with ten times the images
MIB = 2**20
WATCH_SECONDS = 0.1


def run(few: int = FEW, many: int = MANY, plain: int = PLAIN) -> tuple[str, bool]:
    """The table, and whether the cache brings what it should in memory that does not grow."""
    one_thread()
    held = fashion.data()
    grey = (held.train[:, 0] * fashion.DEVIATION + fashion.MEAN) * 255
    pixels = grey.round().clip(0, 255).astype("uint8")
    with room() as place:
        tars = {
            count: write_tar(pixels[:count], held.train_labels[:count], place.new() / FILES[TAR])
            for count in (few, many)
        }
        memory = {count: measured_apart(tar, count)["peak_mib"] for count, tar in tars.items()}
        first, rates, ratios = turns(place, tars[many], plain)
    ratio = sorted(ratios)[len(ratios) // 2]
    growth = memory[many] / memory[few]
    rows = [
        ("plain DataLoader, every epoch", f"{rates['plain']:,.0f}", "1"),
        ("first epoch, decoding included", f"{first:,.0f}", f"{first / rates['plain']:.1f}"),
        ("second epoch and later", f"{rates['kept']:,.0f}", f"{ratio:.1f} ({min(ratios):.1f} to {max(ratios):.1f})"),
    ]  # fmt: skip
    text = table((f"{many:,} PNG images in a tar", "samples/s", "times the plain one"), rows)
    text += (
        f"\n\nImages of {SIDE} by {SIDE} pixels, scaled to {SIZE} by {SIZE}, shuffled, in batches of {BATCH}, in turns. Resident "
        f"memory at its highest: {memory[few]:,.0f} MiB with {few:,} images, {memory[many]:,.0f} MiB with {many:,}."
    )
    return text, ratio >= LEAST and growth <= MOST_GROWTH


def turns(place: Room, tar: Path, plain: int) -> tuple[float, dict[str, float], list[float]]:
    """Samples a second of the first epoch, of both in later turns, and the ratios of these turns."""
    since = time.perf_counter()
    kept = opened(place, tar)
    count = consume(kept.epoch(0))
    first = count / (time.perf_counter() - since)
    naive = TarImages(tar, SIZE)
    loader: DataLoader[Any] = DataLoader(naive, batch_size=BATCH, sampler=Some(len(naive), plain))
    seen: dict[str, list[float]] = {"plain": [], "kept": []}
    for turn in range(TURNS):
        for name in ("plain", "kept") if turn % 2 else ("kept", "plain"):
            since = time.perf_counter()
            read = consume(loader if name == "plain" else kept.epoch(1 + turn))
            seen[name].append(read / (time.perf_counter() - since))
    kept.close()
    naive.close()
    rates = {name: sorted(values)[len(values) // 2] for name, values in seen.items()}
    return first, rates, [one / two for one, two in zip(seen["kept"], seen["plain"], strict=True)]


def consume(batches: Iterable[Any]) -> int:
    """Read all and touch each: how many samples there were."""
    count = 0
    for batch in batches:
        images = batch.inputs[0] if hasattr(batch, "inputs") else batch[0]
        float(images[:, 0, 0, 0].sum())
        count += len(images)
    return count


def opened(place: Room, tar: Path) -> Batches:
    """The tar as a pass gets it, in a loader that picks for itself what to do."""
    from workers.training.batches import open_batches
    from workers.training.data import describe

    samples = open_samples(
        DatasetFiles(
            id="images", digest=tree_digest(tar.parent), root=tar.parent, format=TAR, name="images",
            declared=DECLARED,
        )
    )  # fmt: skip
    return open_batches(
        describe(samples, PassContext(out=place.new(), work=place.new())),
        inputs=({"name": INPUT, "dtype": "float32", "shape": ["batch", 3, SIZE, SIZE]},),
        batch_size=BATCH, seed=0, rank=0, world=1, device=torch.device("cpu"), augment=[], loader=LoaderParams(),
    )  # fmt: skip


def measured_apart(tar: Path, count: int) -> dict[str, float]:
    """Two epochs in a process of its own: its highest resident memory."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training.data_path", str(tar), str(count)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(tar: Path, count: int) -> None:
    """See `measured_apart`."""
    one_thread()
    done = threading.Event()
    seen: list[float] = []
    watch = threading.Thread(target=_watch, args=(done, seen))
    with room() as place:
        watch.start()
        kept = opened(place, tar)
        read = consume(kept.epoch(0)) + consume(kept.epoch(1))
        done.set()
        watch.join()
        kept.close()
    assert read >= 2 * (count - BATCH)
    print(json.dumps({"peak_mib": max(seen)}))


def _watch(done: threading.Event, seen: list[float]) -> None:
    """What this process and those that read for it hold, in MiB: proportional set sizes, so that shared pages count once."""
    own = psutil.Process()
    while not done.wait(WATCH_SECONDS) or not seen:
        held = 0
        for process in (own, *own.children(recursive=True)):
            with suppress(psutil.Error):
                held += process.memory_full_info().pss
        seen.append(held / MIB)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

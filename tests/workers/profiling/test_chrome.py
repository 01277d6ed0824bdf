"""Traces for viewers."""

from tests.workers.profiling.traces import checked
from workers.profiling.chrome import Slice, chrome_trace


def test_slices_keep_their_names_and_times(tmp_path):
    inner = [Slice("a", "Conv", 10, 4, {"provider": "CPU"}), Slice('b "quoted" \\', "Relu", 15, 2)]
    trace = chrome_trace(
        tmp_path / "t.json", "engine", {"main": [Slice("run", "run", 8, 12, inner=inner)], "other": []}
    )

    events = {event["name"]: event for event in checked(trace.path)}
    assert (events["run"]["ts"], events["run"]["dur"]) == (8, 12)
    assert (events["a"]["ts"], events["a"]["dur"], events["a"]["args"]) == (10, 4, {"provider": "CPU"})
    assert events['b "quoted" \\']["cat"] == "Relu"
    assert trace.kind == "chrome"


def test_rounded_times_are_brought_into_one_another(tmp_path):
    # as ONNX Runtime rounds down: the last call seems to end behind its run, a call behind the one after it
    inner = [Slice("first", "Conv", 99, 6), Slice("second", "Conv", 104, 7)]
    trace = chrome_trace(
        tmp_path / "t.json",
        "engine",
        {"main": [Slice("run", "run", 100, 10, inner=inner), Slice("next", "run", 109, 3)]},
    )

    spans = {event["name"]: (event["ts"], event["ts"] + event["dur"]) for event in checked(trace.path)}
    assert spans == {"run": (100, 109), "first": (100, 104), "second": (104, 109), "next": (109, 112)}

"""The roofline: how near each layer comes to what the device can do.

Source: S. Williams, A. Waterman, D. Patterson, Roofline: an insightful visual performance model for multicore architectures,
Communications of the ACM 52 (2009).
"""

from collections.abc import Sequence
from typing import Any

from app.profiles.schemas import Layer, Peaks
from app.reports.schemas import Report
from workers.reporting.blocks import Bullets, Chart, Section
from workers.reporting.charts import chart, decades
from workers.reporting.sections.layers import named
from workers.reporting.words import amount, when

Json = dict[str, Any]

BOUNDS = ("compute", "memory", "overhead", "unknown")
DASHES = [[1, 0], [6, 3], [2, 3], [8, 3, 2, 3], [1, 2]]


def roofline(report: Report) -> Section | None:
    """Each layer's operations a second over its operations a byte, below the roofs that the device's peaks make."""
    profile = report.profile
    if profile is None or profile.peaks is None or not profile.peaks.flops_per_s:
        return None
    drawn = [layer for layer in profile.layers if layer.flops and layer.moved_bytes and layer.mean_ms > 0]
    if not drawn:
        return None
    peaks = profile.peaks
    told = [
        [f"{name}: {amount(value, 'FLOP/s')}, reached from {value / peaks.bytes_per_s:.3g} FLOP a byte on"]
        for name, value in peaks.flops_per_s.items()
    ]
    told += [
        [f"memory: {amount(peaks.bytes_per_s, 'B/s')}, read and written together"],
        [f"calling a small operator: {1000 * peaks.overhead_ms:.3g} µs"],
        [f"measured with {peaks.measured_with}, threads: {peaks.threads}, {when(peaks.measured_at)}"],
    ]
    words = (
        f"{len(drawn)} of {len(profile.layers)} layers, those whose operations and bytes are known; the larger a mark, the more "
        "time. Lines are what the device reached on a large matrix product and a large copy: a layer far below them is held by "
        "something else."
    )
    spec = _chart(drawn, peaks)
    return Section(
        "roofline",
        "Roofline",
        [Chart("Operations a second by operations a byte", words, spec), Bullets(told)],
    )


def _chart(drawn: Sequence[Layer], peaks: Peaks) -> Json:
    points: list[Json] = [
        {
            "name": named(layer),
            "operator": layer.operator,
            "intensity": layer.flops / layer.moved_bytes,
            "rate": layer.flops / layer.mean_ms * 1000,
            "ms": layer.mean_ms,
            "share": layer.share,
            "bound": layer.bound or "unknown",
        }
        for layer in drawn
        if layer.flops and layer.moved_bytes
    ]
    ridges = [value / peaks.bytes_per_s for value in peaks.flops_per_s.values()]
    reach = [point["intensity"] for point in points] + ridges
    low, high = decades(min(reach), max(reach))
    roofs: list[Json] = [
        {"roof": name, "intensity": at, "rate": min(value, at * peaks.bytes_per_s)}
        for name, value in peaks.flops_per_s.items()
        for at in (low, value / peaks.bytes_per_s, high)
    ]
    rates = [row["rate"] for row in (*points, *roofs)]
    x = {
        "field": "intensity",
        "type": "quantitative",
        "title": "FLOP a byte",
        "scale": {"type": "log", "domain": [low, high], "nice": False},
        "axis": {"format": "~g", "tickCount": 6, "labelOverlap": True},
    }
    y = {
        "field": "rate",
        "type": "quantitative",
        "title": "FLOP a second",
        "scale": {"type": "log", "domain": decades(min(rates), max(rates)), "nice": False},
        "axis": {"format": "~s", "tickCount": 5, "labelOverlap": True},
    }
    used = [bound for bound in BOUNDS if any(point["bound"] == bound for point in points)]
    names = list(peaks.flops_per_s)
    held = {"field": "bound", "type": "nominal", "legend": {"title": "held by"}}
    return chart(
        points,
        height=320,
        resolve={"scale": {"strokeDash": "independent"}},
        layer=[
            {
                "data": {"values": roofs},
                "mark": {"type": "line", "color": "var(--text)", "strokeWidth": 1.5},
                "encoding": {
                    "x": x,
                    "y": y,
                    "strokeDash": {
                        "field": "roof",
                        "type": "nominal",
                        "scale": {"domain": names, "range": DASHES[: len(names)]},
                        "legend": {"title": "roof", "symbolType": "stroke"},
                    },
                },
            },
            {
                "mark": {"type": "point", "filled": True, "opacity": 0.8},
                "encoding": {
                    "x": x,
                    "y": y,
                    "size": {
                        "field": "ms",
                        "type": "quantitative",
                        "scale": {"range": [30, 500]},
                        "legend": None,
                    },
                    "color": {
                        **held,
                        "scale": {
                            "domain": used,
                            "range": [
                                "var(--baseline)" if one == "unknown" else f"var(--{one})" for one in used
                            ],
                        },
                    },
                    "shape": {
                        **held,
                        "scale": {
                            "domain": used,
                            "range": ["circle", "square", "triangle-up", "cross"][: len(used)],
                        },
                    },
                    "tooltip": [
                        {"field": "name", "title": " "},
                        {"field": "operator", "title": "operator"},
                        {"field": "ms", "format": ".3~g", "title": "ms"},
                        {"field": "share", "format": ".1%", "title": "share"},
                        {"field": "intensity", "format": ".3~g", "title": "FLOP a byte"},
                        {"field": "rate", "format": ".3~s", "title": "FLOP/s"},
                        {"field": "bound", "title": "held by"},
                    ],
                },
            },
        ],
    )

"""What accuracy can mean: one entry a metric, done in `workers/measure/metrics`."""

from app.catalog.spec import MetricSpec

METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        MetricSpec(
            name="top1",
            title="Top-1 accuracy",
            documentation="The share of samples whose largest score is at the label.",
            unit="1",
            higher_is_better=True,
            needs_labels=True,
            paired=False,
            low=0.0,
            high=1.0,
        ),
        MetricSpec(
            name="top5",
            title="Top-5 accuracy",
            documentation="The share of samples whose label is among the five largest scores.",
            unit="1",
            higher_is_better=True,
            needs_labels=True,
            paired=False,
            low=0.0,
            high=1.0,
        ),
        MetricSpec(
            name="exact_match",
            title="Exact match",
            documentation="The share of samples whose whole output equals the label.",
            unit="1",
            higher_is_better=True,
            needs_labels=True,
            paired=False,
            low=0.0,
            high=1.0,
        ),
        MetricSpec(
            name="snr",
            title="Signal-to-noise ratio",
            documentation="Ten times the decimal logarithm of the original output's power over the power of its "
            "difference to the optimized output, per sample. Needs no labels.",
            unit="dB",
            higher_is_better=True,
            needs_labels=False,
            paired=True,
        ),
    )
}

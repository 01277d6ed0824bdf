"""What accuracy can mean: one entry a metric, done in `workers/measure/metrics`."""

from app.catalog.spec import MetricSpec

METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        MetricSpec(
            name="top1",
            title="Top-1 accuracy",
            documentation="The share of samples whose largest score is at the label. The output is [samples, classes] with "
            "a class number a sample; or it has more axes, with a class number a position, classes last or second: a "
            "sample then scores the share of its positions. Of equal scores the first counts.",
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
            documentation="The share of samples whose label is among the five largest scores; shapes as for top1.",
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
            documentation="The share of samples whose whole output equals the label, element by element: integers, truth "
            "values or texts.",
            unit="1",
            higher_is_better=True,
            needs_labels=True,
            paired=False,
            low=0.0,
            high=1.0,
        ),
        MetricSpec(
            name="mae",
            title="Mean absolute error",
            documentation="How far the output is off the label, on average of a sample's elements, in the output's own "
            "unit. Labels are numbers of the output's shape.",
            unit="1",
            higher_is_better=False,
            needs_labels=True,
            paired=False,
            low=0.0,
        ),
        MetricSpec(
            name="snr",
            title="Signal-to-noise ratio",
            documentation="Ten times the decimal logarithm of the original output's power over the power of its "
            "difference to the optimized output, per sample, at most 150; the mean of all samples. Needs no labels, "
            "and takes no budget: it compares the two models, so nothing can drop.",
            unit="dB",
            higher_is_better=True,
            needs_labels=False,
            paired=True,
        ),
    )
}

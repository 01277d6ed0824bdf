"""What is known of single cases: where a runtime deviates from the standard, and why nothing can be compared."""

RUNTIMES = ("onnxruntime-cpu", "openvino-cpu")

_RANDOM = "dropout in training mode is random by definition"
_DROPOUT = {
    "test_training_dropout": _RANDOM,
    "test_training_dropout_default": _RANDOM,
    "test_training_dropout_default_mask": _RANDOM,
    "test_training_dropout_mask": _RANDOM,
}
_MASKED_SCORES = "masked scores in `qk_matmul_output` are the lowest float; the standard says minus infinity"
_ALIGNED = "with `align_corners` the last point is the last input; the standard counts with the exact scale"

_DIGITS = "numbers are written with more digits than the standard's"
_DRAWN = "random by definition, whatever the seed"

DEVIATIONS: dict[str, dict[str, str]] = {
    "onnxruntime-cpu": {
        **_DROPOUT,
        "test_bernoulli_double_expanded": _DRAWN,
        "test_bernoulli_expanded": _DRAWN,
        "test_bernoulli_seed": _DRAWN,
        "test_bernoulli_seed_expanded": _DRAWN,
        "test_cast_FLOAT_to_STRING": _DIGITS,
        "test_castlike_FLOAT_to_STRING": _DIGITS,
        "test_castlike_FLOAT_to_STRING_expanded": _DIGITS,
        "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal": _MASKED_SCORES,
        "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal": _MASKED_SCORES,
        "test_maxunpool_export_with_output_shape": "values go to other places where `output_shape` is larger than what the strides give",
        "test_resize_downsample_scales_cubic_align_corners": _ALIGNED,
        "test_resize_downsample_scales_linear_align_corners": _ALIGNED,
    },
    "openvino-cpu": {
        "test_resize_downsample_scales_cubic_align_corners": _ALIGNED,
        "test_resize_downsample_scales_linear_align_corners": _ALIGNED,
    },
}

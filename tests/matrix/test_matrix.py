"""Every kind of network in every format on every runtime: it works, or is refused with a reason. `docs/support-matrix.md` is the table."""

import pytest

from tests.matrix.judge import judge
from tests.matrix.table import PAGE, RUNTIMES, page
from tests.matrix.uploads import FORMATS, KINDS

SAMPLE = [
    ("onnx", "detector", "openvino-cpu"),
    ("torch-export", "recurrent", "onnxruntime-cpu"),
    ("torch-export", "encoder", "openvino-cpu"),
    ("torchscript", "recurrent", "onnxruntime-cpu"),
    ("torchscript", "cnn", "torch-eager"),
    ("keras", "cnn", "openvino-cpu"),
    ("transformers", "encoder", "onnxruntime-cpu"),
    ("state-dict", "cnn", "onnxruntime-cpu"),
]
# Keras' own, where it saves on PyTorch with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def written() -> dict[tuple[str, str, str], str]:
    """The cells of the page as it is committed."""
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 + len(RUNTIMES) and cells[1] in KINDS:
            for runtime, cell in zip(RUNTIMES, cells[2:], strict=True):
                rows[cells[0].strip("`"), cells[1], runtime] = cell.strip("`")
    return rows


@pytest.mark.parametrize(("format_", "kind", "runtime"), SAMPLE)
def test_a_sample_of_the_matrix(format_: str, kind: str, runtime: str) -> None:
    outcome = judge(format_, kind, runtime).outcome
    assert written()[format_, kind, runtime] == {"works": "yes"}.get(outcome, outcome)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_matrix_is_what_the_page_says() -> None:
    cells = {
        (format_, kind, runtime): judge(format_, kind, runtime)
        for format_ in FORMATS
        for kind in KINDS
        for runtime in RUNTIMES
    }
    assert {cell.outcome for cell in cells.values()} <= {
        "works",
        "absent",
        "incompatible_recipe",
        "unsupported_operator",
    }
    assert "\n".join(page(cells)) + "\n" == PAGE.read_text(encoding="utf-8")

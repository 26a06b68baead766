"""The parts of a pre-norm transformer block."""

from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """A branch beside the identity: x + dropout(branch(norm(x)))."""

    def __init__(self, width: int, branch: nn.Module, dropout: float) -> None:
        super().__init__()
        self.norm = token_norm(width)
        self.branch = branch
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, T, D)."""
        out: Tensor = x + self.dropout(self.branch(self.norm(x)))
        return out


class Attention(nn.Module):
    """Multi-head self-attention whose four maps are layers of their own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, T, D)."""
        maps = (self.query, self.key, self.value)
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in maps)
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """The perceptron of a block, on each token alone."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (..., D)."""
        out: Tensor = self.fc2(self.dropout(self.act(self.fc1(x))))
        return out


def token_norm(width: int) -> nn.LayerNorm:
    """Return the layer norm of tokens of this width."""
    return nn.LayerNorm(width, eps=1e-6)

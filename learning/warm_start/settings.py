"""Settings of supervised training, which the command line shows without loading what trains."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """Training settings. One step reads at most `batch_tokens` tokens, or one longer example."""

    rank: int = field(default=16, metadata={"help": "of the adapter"})
    learning_rate: float = field(default=5e-4, metadata={"help": "at its peak; it rises for 5 %% of the steps"})
    epochs: int = field(default=2, metadata={"help": "times that every example is read"})
    batch_tokens: int = field(default=32768, metadata={"help": "tokens of a step"})
    max_tokens: int = field(default=3072, metadata={"help": "longer examples are left out, and counted"})
    seed: int = field(default=0, metadata={"help": "of the adapter's start and the order"})
    save_steps: int = field(default=200, metadata={"help": "a killed run goes on from the last of these"})

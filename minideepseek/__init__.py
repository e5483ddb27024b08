r"""minideepseek: DeepSeek-V3 and R1 from first principles, in NumPy.

Read it as a book, in this order; a folder is a part, its files chapters in an order that its own
text gives:

    autograd/    Part 0    the engine: tensors, primitives, backward, gradcheck
    layers/      Part I    the layers: rotary positions, attention, latent attention, experts,
                           multi-token prediction
    model/       Part II   the language model: configuration, transformer, checkpoints, generation
    training/    Part III  how it learns: text, optimiser, trainer, report
    reasoning/   Part IV   how it reasons: R1, a program that verifies answers, GRPO
    exercises/   Part V    learn by doing: write each backward yourself, be told what is wrong
    equations/              the papers' equations, transcribed, and where each is computed
    book/                  this package as pages for a browser
    cli/                   the command line

The names below are what other programs call.

>>> import numpy as np
>>> import minideepseek as mds
>>> model = mds.DeepSeekV3(mds.DeepSeekV3Config.preset("nano"), np.random.default_rng(0))
>>> loss = model.loss(np.array([[72, 101, 108, 108, 111]]))
>>> loss.backward()
>>> optimiser = mds.AdamW(model.parameters(), lr=1e-3)
>>> optimiser.step()
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minideepseek.autograd.blocks import set_threads
    from minideepseek.autograd.engine import (
        Parameter,
        Tensor,
        checkpoint,
        no_grad,
        ops,
        primitive,
    )
    from minideepseek.autograd.gradcheck import gradcheck
    from minideepseek.errors import (
        CheckpointError,
        DivergedError,
        GateError,
        InputError,
        MiniDeepSeekError,
    )
    from minideepseek.layers import fp8
    from minideepseek.layers.attention import (
        GroupedQueryAttention,
        MultiHeadAttention,
        MultiQueryAttention,
    )
    from minideepseek.layers.fp8.linear import FP8Linear
    from minideepseek.layers.mla import DeepSeekAttention, MultiHeadLatentAttention
    from minideepseek.layers.moe import DeepSeekMoE
    from minideepseek.layers.mtp import MTPModel
    from minideepseek.layers.standard_moe import StandardMoE
    from minideepseek.model.config import DeepSeekV3Config
    from minideepseek.model.generate import generate
    from minideepseek.model.speculative import generate_speculative
    from minideepseek.model.tokenizer import ByteTokenizer, WordTokenizer
    from minideepseek.model.transformer import DeepSeekV3
    from minideepseek.reasoning.grpo.objective import group_advantages, grpo_loss
    from minideepseek.reasoning.grpo.sampler import GroupSampler
    from minideepseek.reasoning.grpo.trainer import GRPOTrainer
    from minideepseek.reasoning.r1.model import ReasoningModel
    from minideepseek.training.optim import AdamW, clip_grad_norm

__version__ = "0.1.0"

# Name → module, imported when first asked for: the command line must set BLAS to one thread before
# NumPy is loaded, and importing a package comes before anything in it can run.
_HOME = {
    "AdamW": "training.optim",
    "ByteTokenizer": "model.tokenizer",
    "CheckpointError": "errors",
    "DeepSeekAttention": "layers.mla",
    "DeepSeekMoE": "layers.moe",
    "DeepSeekV3": "model.transformer",
    "DeepSeekV3Config": "model.config",
    "DivergedError": "errors",
    "FP8Linear": "layers.fp8.linear",
    "GRPOTrainer": "reasoning.grpo.trainer",
    "GateError": "errors",
    "GroupSampler": "reasoning.grpo.sampler",
    "GroupedQueryAttention": "layers.attention",
    "InputError": "errors",
    "MTPModel": "layers.mtp",
    "MiniDeepSeekError": "errors",
    "MultiHeadAttention": "layers.attention",
    "MultiHeadLatentAttention": "layers.mla",
    "MultiQueryAttention": "layers.attention",
    "Parameter": "autograd.engine",
    "ReasoningModel": "reasoning.r1.model",
    "StandardMoE": "layers.standard_moe",
    "Tensor": "autograd.engine",
    "WordTokenizer": "model.tokenizer",
    "checkpoint": "autograd.engine",
    "clip_grad_norm": "training.optim",
    "fp8": "layers",
    "generate": "model.generate",
    "generate_speculative": "model.speculative",
    "gradcheck": "autograd.gradcheck",
    "group_advantages": "reasoning.grpo.objective",
    "grpo_loss": "reasoning.grpo.objective",
    "no_grad": "autograd.engine",
    "ops": "autograd.engine",
    "primitive": "autograd.engine",
    "set_threads": "autograd.blocks",
}
__all__ = [
    "AdamW",
    "ByteTokenizer",
    "CheckpointError",
    "DeepSeekAttention",
    "DeepSeekMoE",
    "DeepSeekV3",
    "DeepSeekV3Config",
    "DivergedError",
    "FP8Linear",
    "GRPOTrainer",
    "GateError",
    "GroupSampler",
    "GroupedQueryAttention",
    "InputError",
    "MTPModel",
    "MiniDeepSeekError",
    "MultiHeadAttention",
    "MultiHeadLatentAttention",
    "MultiQueryAttention",
    "Parameter",
    "ReasoningModel",
    "StandardMoE",
    "Tensor",
    "WordTokenizer",
    "checkpoint",
    "clip_grad_norm",
    "fp8",
    "generate",
    "generate_speculative",
    "gradcheck",
    "group_advantages",
    "grpo_loss",
    "no_grad",
    "ops",
    "primitive",
    "set_threads",
]


_PARTS = ("autograd", "layers", "model", "training", "reasoning", "exercises", "equations")


def __getattr__(name: str) -> Any:
    if name in _PARTS:  # with its files, so that help(minideepseek.layers.mla) is the chapter
        part = importlib.import_module(f"minideepseek.{name}")
        for file in pkgutil.walk_packages(part.__path__, f"{part.__name__}."):
            importlib.import_module(file.name)
        return part
    if name not in _HOME:
        raise AttributeError(f"module 'minideepseek' has no attribute {name!r}")
    home = f"minideepseek.{_HOME[name]}"
    value = getattr(importlib.import_module(home), name, None)
    if value is None:  # a chapter that is called by its name
        value = importlib.import_module(f"{home}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})

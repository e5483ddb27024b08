r"""The latent that listens to the key  ★★  10 minutes

Latent attention trains, and its cache has the promised size. Next to another implementation with
the same weights it is off from the first layer on, in every number, and none is wildly wrong.
Making the rotary key's weights larger makes all values of the layer smaller, though values have
nothing to do with positions.

In the wild: two things come out of one projection, and what was meant for one was done to both.
"""

import numpy as np


def cache_entry(x, w, weight, cos, sin, eps=1e-6):
    """What the cache keeps of every token: [latent after its norm ; key after its rotation].

    x (B, T, d); w (r + dr, d): its first r rows make the latent, the others the key that all heads
    share; weight (r,): of the latent's RMSNorm; cos, sin (T, dr/2): the key's neighbouring channels
    (2j, 2j + 1) are turned. Returns (B, T, r + dr).
    """
    r = len(weight)
    c = x @ w.T
    c = c / np.sqrt((c * c).mean(-1, keepdims=True) + eps)
    latent, key = weight * c[..., :r], c[..., r:]
    a, b = key[..., 0::2], key[..., 1::2]
    turned = np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(key.shape)
    return np.concatenate([latent, turned], axis=-1)


# ------------------------------------------------------------------------------------- not copied

from types import SimpleNamespace

from minideepseek.autograd.engine import Tensor, ops
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers.mla import DeepSeekAttention
from minideepseek.layers.module import Init

_R, _DR, _D, _T = 4, 2, 5, 3


def _of_the_library(project):
    def cache_entry(x, w, weight, cos, sin, eps=1e-6):
        layer = DeepSeekAttention(
            hidden_size=x.shape[-1], num_attention_heads=1, kv_lora_rank=len(weight),
            qk_nope_head_dim=2, v_head_dim=2, qk_rope_head_dim=len(w) - len(weight),
            rng=Init(np.random.default_rng(0), 0.5, np.float64),
        )  # fmt: skip
        table = SimpleNamespace(interleaved=True, tables=lambda *where: (cos, sin))
        vars(layer)["rotary"] = table
        layer.kv_a_proj_with_mqa.weight.data[...] = w
        layer.kv_a_layernorm.weight.data[...] = weight
        _, latent, key = project(layer, Tensor(x), 0)
        return ops.concatenate(latent, key[:, :, 0]).data

    return cache_entry


def _inputs():
    rng, angles = np.random.default_rng(0), np.arange(_T)[:, None] * np.ones(_DR // 2)
    x, w = rng.standard_normal((2, _T, _D)), rng.standard_normal((_R + _DR, _D))
    return x, w, np.array([0.5, 1.0, 1.5, 2.0]), np.cos(angles), np.sin(angles)


def _size(cache_entry):
    """A larger x is normalised away from the latent."""
    x, *rest = _inputs()
    small, large = (cache_entry(n * x, *rest)[..., :_R] for n in (1, 1000))
    return compare(large, small, "x a thousand times larger: the latent", 1e-3)


def _apart(cache_entry):
    x, w, *rest = _inputs()
    first = cache_entry(x, w.copy(), *rest)[..., :_R]
    louder = w.copy()
    louder[_R:] *= 10
    again = cache_entry(x, louder, *rest)[..., :_R]
    if np.abs(again - first).max() > 1e-12:
        return (
            "the key's rows of w made ten times larger\n"
            f"the latent's first number goes from {first[0, 0, 0]:.3f} to {again[0, 0, 0]:.3f}"
        )
    return ""


def _value(cache_entry):
    got, want = cache_entry(*_inputs()), _of_the_library(DeepSeekAttention.project)(*_inputs())
    return compare(got[..., :_R], want[..., :_R], "the latent") or compare(
        got[..., _R:], want[..., _R:], "the key"
    )


STORY = """\
The norm belongs to the latent: r channels, a weight of r entries. Taken over all r + dr it divides
by a size that the key has a part in, so that a token with a loud key has quiet values, and the key
is normalised, which the model does not ask for. Trained from scratch it works, another model than
the paper's; the weights of one are not the weights of the other. Other forms of the mistake: no
norm on the latent, and a cache that keeps the latent before it."""

EXERCISE = Bug(
    solutions=(DeepSeekAttention.project,),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(*_inputs()), ((2, _T, _R + _DR), "f")),
        "the latent is normalised": _size,
        "the key has no part in it": _apart,
        "the value": _value,
    })),
    hints=(
        "Whose squares is the mean taken of?",
        "c^KV = norm(W^DKV h) over its r channels; k^R = RoPE(W^KR h), without any norm.",
        "latent, key = c[..., :r], c[..., r:]",
    ),
    mistakes=(
        Mistake("latent, key = weight * c[..., :r], c[..., r:]", "the latent is normalised",
                "the latent: "),
        Mistake(
            "latent, key = c[..., :r], c[..., r:]\n"
            "    size = (latent * latent).mean(-1, keepdims=True)\n"
            "    latent = weight * latent / np.sqrt(size + eps)\n"
            "    key = key / np.sqrt((key * key).mean(-1, keepdims=True) + eps)",
            "the value", "the key: ",
        ),
    ),
    wrong="c = c / np.sqrt((c * c).mean(-1, keepdims=True) + eps)\n"
          "    latent, key = weight * c[..., :r], c[..., r:]",
    mend="latent, key = c[..., :r], c[..., r:]\n"
         "    latent = weight * latent / np.sqrt((latent * latent).mean(-1, keepdims=True) + eps)",
    fails=("the key has no part in it",
           "the key's rows of w made ten times larger\nthe latent's first number goes from"),
    story=STORY,
)  # fmt: skip

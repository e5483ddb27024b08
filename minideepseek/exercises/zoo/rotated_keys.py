r"""The cache that cannot be used  ★★  10 minutes

Latent attention works as long as all keys are expanded from the latents anew at every step. The
absorbed form, in which the heads attend to the latents themselves, gives other numbers, the more
so the further back it looks, and is given up as inexact: the decoder keeps expanding, which costs
a hundred times the work. Nothing is wrong with the absorbed form.

In the wild: it is a correct attention with positions, only not this one.
"""

import numpy as np


def turn(x, cos, sin):
    """All neighbouring pairs of channels of x turned by their angles."""
    a, b = x[..., 0::2], x[..., 1::2]
    return np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


def rotated_keys(c, key, w_uk, theta=10000.0):
    """A head's keys (T, dn + dr), [k^C ; k^R]: made from the latent; from its own, and turned.

    c (T, r): latents; key (T, dr): the shared key, not yet turned, dr even; w_uk (dn, r). Token t
    stands at position t, pair j of k^R turns by t · theta^(−2j/dr).
    """
    k = np.concatenate([c @ w_uk.T, key], axis=-1)  # (T, dn + dr)
    width = k.shape[-1]
    angles = np.arange(len(k))[:, None] * theta ** (-np.arange(0, width, 2) / width)
    return turn(k, np.cos(angles), np.sin(angles))


# ------------------------------------------------------------------------------------- not copied

from inspect import unwrap

from minideepseek.autograd import fused
from minideepseek.exercises.adapted import placed
from minideepseek.exercises.bugs import Bug, looks_right, told
from minideepseek.exercises.exercise import Mistake
from minideepseek.exercises.properties import compare, properties
from minideepseek.layers.mla import DeepSeekAttention


def _of_the_library(rope):
    def rotated_keys(c, key, w_uk, theta=10000.0):
        dr, k = key.shape[-1], np.concatenate([c @ w_uk.T, key], -1)
        angles = np.arange(len(k))[:, None] * theta ** (-np.arange(0, dr, 2) / dr)
        return rope(k[None, :, None], np.cos(angles), np.sin(angles), interleaved=True)[0][0, :, 0]

    return rotated_keys


def _inputs(t=5):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in ((t, 3), (t, 4), (2, 3))]


def _beginning(rotated_keys):
    c, key, w_uk = _inputs()
    want = np.concatenate([c @ w_uk.T, key], -1)[0]
    return compare(rotated_keys(c, key, w_uk)[0], want, "at position 0: the key")


def _absorbed(rotated_keys):
    """qᵢ·kᵢ = (W^UKᵀ q^C)·c + q^R·k^R, wherever the token stands."""
    c, key, w_uk = _inputs()
    q = np.random.default_rng(1).standard_normal(6)
    k = rotated_keys(c, key, w_uk)
    for t in range(5):
        naive = q @ k[t]
        absorbed = (w_uk.T @ q[:2]) @ c[t] + q[2:] @ k[t, 2:]
        if abs(naive - absorbed) > 1e-12 * np.abs(k).sum():
            return (
                f"a query against token {t}: q·k = {naive:.3f}, absorbed {absorbed:.3f}\n"
                f"W^UK c = {told(w_uk @ c[t])}, the key's k^C = {told(k[t, :2])}"
            )
    return ""


def _value(rotated_keys):
    want = _of_the_library(unwrap(fused.rope))(*_inputs())
    return compare(rotated_keys(*_inputs()), want, "the keys")


STORY = """\
A rotation between W^UK and the query cannot be moved aside: the product W^UKᵀ R(s) q has the
token's position in it, and would have to be made anew for each of them. That is why latent
attention has two parts: k^C, made of the latent and never turned, and a few channels of their own,
turned and cached as they are. Turning everything is a proper attention with positions; it only
throws away what the latent was for. (One table for dn + dr channels also has other frequencies
than one for dr.)"""

EXERCISE = Bug(
    solutions=(fused.rope, DeepSeekAttention.project),
    checker=placed(_of_the_library, properties({
        "looks right": looks_right(lambda f: f(*_inputs()), ((5, 6), "f")),
        "position 0": _beginning,
        "absorbed and naive agree": _absorbed,
        "the value": _value,
    })),
    hints=(
        "Two tokens with one latent: are their k^C the same at every position?",
        "k = [W^UK c ; RoPE(key)]: only the dr channels of the shared key are turned.",
        "width = key.shape[-1]",
    ),
    mistakes=(
        Mistake(
            "width = key.shape[-1]\n"
            "    t = np.arange(len(k))[:, None] + 1\n"
            "    angles = t * theta ** (-np.arange(0, width, 2) / width)\n"
            "    k[:, -width:] = turn(k[:, -width:], np.cos(angles), np.sin(angles))\n"
            "    return k",
            "position 0", "at position 0: the key",
        ),
        Mistake(
            "width = k.shape[-1]\n"
            "    angles = np.arange(len(k))[:, None] * theta ** (-np.arange(0, width, 2) / width)\n"
            "    cos, sin = np.cos(angles), np.sin(angles)\n"
            "    return np.concatenate([c @ w_uk.T, turn(key, cos[:, :2], sin[:, :2])], axis=-1)",
            "the value", "the keys: ",
        ),
        Mistake(
            "width = key.shape[-1]\n"
            "    angles = np.arange(len(k))[:, None] * theta ** (-np.arange(0, width, 2) / width)\n"
            "    k[:, :width] = turn(k[:, :width], np.cos(angles), np.sin(angles))\n"
            "    return k",
            "absorbed and naive agree", "a query against token 1",
        ),
    ),
    wrong="width = k.shape[-1]\n"
          "    angles = np.arange(len(k))[:, None] * theta ** (-np.arange(0, width, 2) / width)\n"
          "    return turn(k, np.cos(angles), np.sin(angles))",
    mend="width = key.shape[-1]\n"
         "    angles = np.arange(len(k))[:, None] * theta ** (-np.arange(0, width, 2) / width)\n"
         "    k[:, -width:] = turn(k[:, -width:], np.cos(angles), np.sin(angles))\n"
         "    return k",
    fails=("absorbed and naive agree", "a query against token 1: q·k ="),
    story=STORY,
)  # fmt: skip

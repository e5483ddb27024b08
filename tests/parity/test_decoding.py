"""Decoding over the cache: the same logits, the same greedy text, and the same numbers in it.

transformers caches what we cache, the latent after its norm and the shared rotated key, and expands
both again for every head; we also read the cached latents directly (absorbed). Float64 throughout.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd.engine import no_grad
from minideepseek.layers.cache import ModelCache
from minideepseek.layers.mla import MultiHeadLatentAttention
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.generate import generate
from minideepseek.model.transformer import DeepSeekV3
from tests.parity import oracle
from tests.parity.oracle import torch
from tests.parity.pairs import draw_ids, make_pair, our_model, relative, same_routing
from tests.strategies import YARN_VARIANTS, configs

pytestmark = pytest.mark.parity
SEEDS = st.integers(0, 2**32 - 1)
TOKENS = 12
CUTS = st.lists(st.integers(1, TOKENS - 1), unique=True).map(sorted)
FORMS = {"naive": False, "absorbed": True}


@contextmanager
def in_form(name: str) -> Iterator[None]:
    """Attention over a cache in this form, whichever is cheaper."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            MultiHeadLatentAttention, "absorbed_is_cheaper", lambda self, tokens: FORMS[name]
        )
        yield


def chunks(ids: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    return np.split(ids, cuts, axis=1)


def our_cached(model: DeepSeekV3, parts: list[np.ndarray]) -> tuple[np.ndarray, ModelCache]:
    """Logits (B, T, V) of parts that are fed one after the other, and the cache afterwards."""
    cache, found = model.new_cache(len(parts[0]), capacity=1), []
    with no_grad():
        for part in parts:
            found.append(model.logits(model.hidden(part, cache)[0]).numpy())
    return np.concatenate(found, axis=1), cache


def their_cached(theirs: oracle.Oracle, parts: list[np.ndarray]) -> tuple[np.ndarray, Any]:
    cache, found = None, []
    with torch.no_grad():
        for part in parts:
            out = theirs.model(torch.from_numpy(part), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits.numpy())
    return np.concatenate(found, axis=1), cache


@pytest.mark.parametrize("form", FORMS)
@given(configs(), SEEDS, CUTS)
def test_in_pieces(form: str, config: DeepSeekV3Config, seed: int, cuts: list[int]) -> None:
    """Whatever the pieces of one, two or more tokens, on each side cut for itself."""
    ids = draw_ids(config, seed, (2, TOKENS))
    with oracle.lifted_casts(), in_form(form):
        pair = make_pair(config, seed, "float64")
        assert same_routing(pair, ids)
        theirs, _ = their_cached(pair.theirs, chunks(ids, cuts))
        ours, _ = our_cached(pair.ours, chunks(ids, cuts))
        single, _ = our_cached(pair.ours, chunks(ids, list(range(1, TOKENS))))
        whole = oracle.logits(pair.theirs, ids)
    assert relative(ours, theirs) < 1e-9
    assert relative(single, theirs) < 1e-9
    assert relative(ours, whole) < 1e-9


@given(configs(), SEEDS, CUTS)
def test_the_cached_numbers(config: DeepSeekV3Config, seed: int, cuts: list[int]) -> None:
    """Latents after their norm are equal, and rotated keys up to the order of their channels.

    We leave a pair of channels where it was; transformers moves the first of all pairs to the
    front where pairs are neighbours (rope_interleave).
    """
    ids, width = draw_ids(config, seed, (2, TOKENS)), config.qk_rope_head_dim
    with oracle.lifted_casts():
        pair = make_pair(config, seed, "float64")
        _, theirs = their_cached(pair.theirs, chunks(ids, cuts))
        _, ours = our_cached(pair.ours, chunks(ids, cuts))
    order = np.arange(width)
    if config.rope_interleave:
        order = np.concatenate([order[0::2], order[1::2]])
    assert ours.lengths.tolist() == [TOKENS, TOKENS]
    for mine, layer in zip(ours.layers, theirs.layers, strict=True):
        assert mine.data is not None
        latent, key = np.split(mine.data[:, :TOKENS], [config.kv_lora_rank], axis=-1)
        assert relative(latent, layer.keys[:, 0].numpy()) < 1e-9
        assert relative(key[..., order], layer.values[:, 0].numpy()) < 1e-9


GREEDY: dict[str, dict[str, Any]] = {
    "nano": {},
    "q_lora_rank null, halves rotated": {"q_lora_rank": None, "rope_interleave": False},
    "yarn": {
        "rope_scaling": {
            "type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 32,
            **YARN_VARIANTS[1],
        }
    },
    "biases, all layers MoE": {"attention_bias": True, "first_k_dense_replace": 0},
}


@pytest.mark.parametrize("changes", GREEDY.values(), ids=GREEDY)
def test_200_greedy_tokens(changes: dict[str, Any]) -> None:
    """One wrong number in the cache, once, and the texts part for good."""
    config = DeepSeekV3Config.preset("nano", max_position_embeddings=256, **changes)
    prompt = draw_ids(config, 8, (1, 11))
    with oracle.lifted_casts():
        pair = make_pair(config, 8, "float64")
        expected = greedy(pair.theirs, prompt, 200)
    found = generate(pair.ours, prompt, 200)
    assert found.shape == (1, 211)
    assert len(set(found[0, 11:].tolist())) > 20  # no model that repeats one token
    assert found.tolist() == expected.tolist()


def greedy(theirs: oracle.Oracle, prompt: np.ndarray, new: int, **options: Any) -> np.ndarray:
    """What `generate` of transformers makes of one prompt, to the end."""
    theirs.model.generation_config.eos_token_id = None
    with torch.no_grad():
        ids = torch.from_numpy(prompt)
        mask = torch.ones_like(ids)
        return theirs.model.generate(
            ids, attention_mask=mask, max_new_tokens=new, do_sample=False, **options
        ).numpy()


@settings(max_examples=10)
@given(configs(), SEEDS, st.lists(st.integers(1, 6), min_size=2, max_size=4))
def test_rows_of_different_lengths(
    config: DeepSeekV3Config, seed: int, lengths: list[int]
) -> None:
    """Right-padded prompts in one batch go on as each does alone in transformers."""
    prompts = draw_ids(config, seed, (len(lengths), max(lengths)))
    with oracle.lifted_casts():
        pair = make_pair(config, seed, "float64")
        rows = [
            greedy(pair.theirs, row[None, :n], 8)[0]
            for row, n in zip(prompts, lengths, strict=True)
        ]
    found = generate(pair.ours, prompts, 8, pad_token_id=0, lengths=np.array(lengths))
    for row, n, expected in zip(found, lengths, rows, strict=True):
        assert row[: n + 8].tolist() == expected.tolist()


def test_drafting_with_our_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers drafts with the MTP layer of our file, and writes the greedy text all the same.

    It reads that layer from the directory when it begins to generate.
    """
    ours = our_model(DeepSeekV3Config.preset("nano"), 9, "float64")
    prompt, drafts, forward = draw_ids(ours.config, 9, (1, 7)), [], oracle.MtpModel.forward

    def counted(self: Any, *inputs: Any, **options: Any) -> Any:
        drafts.append(forward(self, *inputs, **options))
        return drafts[-1]

    monkeypatch.setattr(oracle.MtpModel, "forward", counted)
    ours.save_pretrained(tmp_path / "model")
    with oracle.lifted_casts():
        theirs = oracle.open_directory(tmp_path / "model", ours.config, torch.float64)
        expected = greedy(theirs, prompt, 40, use_mtp=True)
    assert generate(ours, prompt, 40).tolist() == expected.tolist()
    assert len(drafts) > 10

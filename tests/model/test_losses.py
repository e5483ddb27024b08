"""The loss of DeepSeek-V3: every part against the plain model, padding, and all gradients."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minideepseek.autograd.gradcheck import gradcheck
from minideepseek.errors import InputError
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.transformer import DeepSeekV3, evaluate_loss
from tests.layers import plain
from tests.layers.common import build, draw_ids, forget, gradients, seeds
from tests.model.test_transformer import logits
from tests.strategies import configs

NANO = DeepSeekV3Config.preset("nano")
# A balance loss as large as the others, so that a mistake in it is seen.
loud = configs(aux_loss_alpha=0.5)



def check_losses(model, ids, rows, lam, mask=None):
    """The losses of ids against the plain ones of `rows`, the same texts without padding."""
    config = model.config
    found = model.losses(ids, mtp_weight=lam, mask=mask)
    expected = plain.losses(config, model.state_dict(), rows, lam)
    assert found.total.item() == pytest.approx(expected["total"], rel=1e-9)
    assert found.main.item() == pytest.approx(expected["main"], rel=1e-9)
    assert [m.item() for m in found.mtp] == pytest.approx(expected["mtp"], rel=1e-9, abs=1e-12)
    if found.balance is not None:
        assert found.balance.item() == pytest.approx(expected["balance"], rel=1e-9)
    experts, layers = config.n_routed_experts, zip(*(p.routings for p in expected["parts"]),
                                                   strict=True)  # fmt: skip
    for routing, alone in zip(found.routings, layers, strict=True):
        counts = sum(np.bincount(r.chosen.ravel(), minlength=experts) for r in alone)
        assert routing.counts == counts.tolist()


@given(loud, seeds, st.integers(1, 3), st.integers(2, 6), st.sampled_from([0.3, 0.1, 2.0]))
def test_the_loss_written_out(config, seed, batch, tokens, lam):
    """Every target counted once and none twice, each depth divided by T, λ/D, α per sequence; of
    texts down to two tokens, in which depths have no slot."""
    model, ids = build(config, seed), draw_ids(config, seed, batch, tokens)
    check_losses(model, ids, list(ids), lam)


@given(loud, seeds, st.lists(st.integers(2, 6), min_size=1, max_size=3))
def test_padding_changes_no_part_of_the_loss(config, seed, lengths):
    """Nor any expert's load: padding is no target, not routed, and in no mean."""
    model, wide = build(config, seed), max(lengths) + seed % 2
    ids = draw_ids(config, seed, len(lengths), wide)
    mask = (np.arange(wide) < np.array(lengths)[:, None]).astype(int)
    check_losses(model, ids, [row[:n] for row, n in zip(ids, lengths, strict=True)], 0.3, mask)


@given(loud, seeds, st.integers(2, 5))
def test_gradients_of_padded_texts_are_those_of_the_texts(config, seed, n):
    model = build(config, seed)
    ids, mask = draw_ids(config, seed, 1, 6), (np.arange(6) < n).astype(int)[None]
    model.loss(ids, mask=mask).backward()
    padded = gradients(model)
    forget(model)
    model.loss(ids[:, :n]).backward()
    for name, expected in gradients(model).items():
        size = max(1, np.abs(expected).max())
        assert np.abs(padded[name] - expected).max() < 1e-10 * size, name


def test_a_mask_of_ones_is_no_mask():
    model, ids = build(NANO), draw_ids(NANO, 0, 2, 9)
    assert model.loss(ids, mask=np.ones((2, 9))).item() == model.loss(ids).item()


def test_without_modules_the_loss_is_the_main_one():
    config = DeepSeekV3Config.preset("nano", num_nextn_predict_layers=0, aux_loss_alpha=0.0)
    model, ids = build(config), draw_ids(config, 0, 2, 7)
    losses = model.losses(ids)
    assert losses.mtp == [] and losses.balance is None
    assert losses.total is losses.main and len(losses.routings) == 1


@given(configs(num_nextn_predict_layers=2), seeds)
@settings(max_examples=20)
def test_lambda_scales_linearly_and_0_turns_the_modules_off(config, seed):
    model, ids = build(config, seed), draw_ids(config, seed, 2, 6)
    base = model.losses(ids, mtp_weight=0.0)
    assert base.mtp == [] and len(base.routings) == config.num_moe_layers
    for lam in (0.1, 0.3, 1.0):
        losses = model.losses(ids, mtp_weight=lam)
        routed = sum(m.item() for m in losses.mtp) * lam / 2 + losses.balance.item()
        assert losses.total.item() == pytest.approx(losses.main.item() + routed, rel=1e-12)
        assert losses.main.item() == base.main.item()


def test_lambda_is_v3s_by_default():
    model, ids = build(NANO), draw_ids(NANO, 0, 2, 6)
    assert model.loss(ids).item() == model.loss(ids, mtp_weight=0.3).item()


def test_evaluate_loss_sums_the_chosen_targets():
    model, ids = build(NANO), draw_ids(NANO, 0, 3, 9)
    mask = np.random.default_rng(1).integers(0, 2, (3, 8))
    nats, count = evaluate_loss(model, ids, mask)
    z = logits(model, ids[:, :-1])
    chosen = np.take_along_axis(z, ids[:, 1:, None], -1)[..., 0] - np.log(np.exp(z).sum(-1))
    assert count == mask.sum() and nats == pytest.approx(-(chosen * mask).sum(), rel=1e-12)
    assert evaluate_loss(model, ids, np.ones((3, 8)))[0] / 24 == pytest.approx(
        model.losses(ids).main.item(), rel=1e-12
    )


# --------------------------------------------------------------------------------------- gradients


@given(loud, seeds)
def test_every_parameter_gets_a_gradient(config, seed):
    """The modules' last ones too: logits taken before the block would leave them without."""
    assume(config.num_experts_per_tok > 1 or not config.norm_topk_prob)  # a single gate is 1
    model, ids = build(config, seed), draw_ids(config, seed, 2, 9)
    model.loss(ids).backward()
    for name, gradient in gradients(model).items():
        assert np.abs(gradient).max() > 1e-12, name


def test_gradients_of_the_whole_loss():
    """All three parts together, by differences, of every parameter, two depths and tied weights."""
    changes = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
               "aux_loss_alpha": 0.5}  # fmt: skip
    deep = {"num_hidden_layers": 1, "first_k_dense_replace": 0, "num_nextn_predict_layers": 2,
            "tie_word_embeddings": True, "q_lora_rank": None}  # fmt: skip
    for more in ({}, deep):
        config = DeepSeekV3Config.preset("nano", **changes, **more)
        model, ids = build(config, seed=3), draw_ids(config, 3, 1, 6)
        gradcheck(lambda m=model, ids=ids: m.loss(ids),
                  parameters=dict(model.named_parameters()))  # fmt: skip


@given(configs(num_nextn_predict_layers=2, aux_loss_alpha=0.5), seeds)
@settings(max_examples=20)
def test_gradients_of_the_parts_add_up_in_the_shared_weights(config, seed):
    """Embedding and head serve the main model and every depth; each part reaches both."""
    model, ids = build(config, seed), draw_ids(config, seed, 2, 7)
    shared = ["model.embed_tokens.weight"] + ["lm_head.weight"] * (not config.tie_word_embeddings)

    def pull(part):
        forget(model)
        part(model.losses(ids)).backward()
        return gradients(model)

    whole = pull(lambda one: one.total)
    parts = [pull(lambda one: one.main), pull(lambda one: one.balance)]
    parts += [pull(lambda one, k=k: one.mtp[k] * (0.3 / 2)) for k in range(2)]
    for name, expected in whole.items():
        size = max(1, np.abs(expected).max())
        assert np.abs(sum(part[name] for part in parts) - expected).max() < 1e-10 * size, name
    for name in shared:
        assert all(part[name].any() for part in (parts[0], *parts[2:]))
    first, second = (f"model.layers.{config.num_hidden_layers + k}.eh_proj.weight" for k in (0, 1))
    assert parts[3][first].any() and parts[3][second].any()  # depth 2 trains depth 1 too
    assert parts[2][first].any() and not parts[2][second].any()


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (np.ones((2, 4)), r"got shape \(2, 4\), expected that of ids, \(2, 5\)"),
        (np.ones(5), r"got shape \(5,\), expected that of ids, \(2, 5\)"),
        ([[1] * 5, [0, 1, 1, 1, 1]], "row 1 is not ones for tokens and then zeros for padding"),
        ([[1, 1, 0, 1, 0], [1] * 5], "row 0 is not ones for tokens and then zeros for padding"),
        ([[1] * 5, [2, 2, 0, 0, 0]], "row 1 is not ones for tokens and then zeros for padding"),
    ],
)
def test_a_mask_that_is_no_right_padding_is_refused(mask, sentence):
    with pytest.raises(InputError, match=f"^mask: {sentence}$"):
        DeepSeekV3.empty(NANO).loss(draw_ids(NANO, 0, 2, 5), mask=mask)

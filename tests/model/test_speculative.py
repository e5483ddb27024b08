"""Speculative decoding changes nothing: greedy the same tokens, sampled the same law, counted."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd.engine import no_grad, ops
from minideepseek.errors import InputError
from minideepseek.layers.moe import DeepSeekMoE
from minideepseek.layers.mtp import MTPLayer
from minideepseek.model import drafter, generate, speculative
from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.generate import draw, probabilities, request
from minideepseek.model.speculative import (
    Speculation,
    acceptance,
    generate_speculative,
    residual,
    verify,
)
from minideepseek.model.transformer import DeepSeekV3
from tests.layers.common import build, draw_ids, relative, seeds
from tests.strategies import configs

NANO = DeepSeekV3Config.preset("nano", num_nextn_predict_layers=2)
deep = st.integers(1, 3).flatmap(lambda d: configs(num_nextn_predict_layers=d))


def rigged(config, seed, strength=0.2, noise=0.2):
    """A model that mostly looks at its last token, and modules that mostly draft what it will say.

    strength: of all that attention and experts add; noise: in what the modules join. 0 and 0 makes
    every draft right; the random ones of `build` would nearly all be wrong.
    """
    model = build(config, seed)
    for layer in (*model.model.layers, *model.mtp.layers):
        parts = [layer.self_attn.o_proj.weight]
        if isinstance(layer.mlp, DeepSeekMoE):
            parts += [layer.mlp.experts.down_proj, layer.mlp.shared_experts.down_proj.weight]
        else:
            parts.append(layer.mlp.down_proj.weight)
        for part in parts:
            part.data[...] *= strength
    for layer in model.mtp.layers:
        d = config.hidden_size
        layer.eh_proj.weight.data[...] *= noise
        layer.eh_proj.weight.data[:, :d] += np.eye(d)
        layer.enorm.weight.data[...] = 1
        layer.shared_head.norm.weight.data[...] = model.model.norm.weight.data
    return model


def slow_drafts(model, text, count):
    """The greedy drafts behind a text, without caches: every module reads all slots anew."""
    layers, text, drafts = model.mtp.layers[:count], list(text), []
    with no_grad():
        states = model.hidden(np.array([text[:-1]]))[0]
        while len(drafts) < count:
            x, last = states, []
            for k, layer in enumerate(layers, start=1):
                tokens = np.array([text[k : k + x.shape[1]]])
                x = layer.step(x, model.model.embed_tokens(tokens))[0]
                last.append(x[:, -1:])
                text.append(int(model.logits(last[-1]).data.argmax()))
                drafts.append(text[-1])
            states = ops.concatenate(states, *last, axis=1)
    return drafts[:count]


def slow_rounds(model, prompt, written, steps, draft_tokens):
    """The rounds of one greedy row: (how many drafts count, how many are accepted, the drafts).

    written: its new tokens, fewer than steps where it ended.
    """
    done, rounds = 1, [(0, 0, [])]
    while done < len(written):
        text, left = [*prompt, *written[:done]], written[done:]
        drafts = slow_drafts(model, text, min(draft_tokens, steps - done - 1))
        right = 0
        while right < min(len(drafts), len(left)) and drafts[right] == left[right]:
            right += 1
        rounds.append((right if right == len(left) else len(drafts), right, drafts))
        done += right + 1
    return rounds


def plain(model, row, steps, eos=None):
    """New tokens of one row (T,) by `generate`, up to its end."""
    new = generate.generate(model, row[None], steps, eos_token_id=eos)[0, len(row) :].tolist()
    return new[: new.index(eos) + 1] if eos in new else new


# ------------------------------------------------------------------------------- the same tokens


@given(
    deep, seeds, st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 4),
    st.integers(0, 10), st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([0.0, 0.2, 1.0]),
    st.data(),
)  # fmt: skip
@settings(max_examples=100)
def test_greedy_is_plain_greedy(config, seed, lengths, drafts, steps, strength, noise, data):
    """Token for token: any model and prompts, rows of any lengths that accept what they may, ends
    inside drafts, and drafts right, partly right and wrong."""
    model, wide = rigged(config, seed, strength, noise), max(lengths)
    ids = draw_ids(config, seed, len(lengths), wide)
    texts = [plain(model, row[:n], steps) for row, n in zip(ids, lengths, strict=True)]
    eos = data.draw(st.none() | st.sampled_from(sorted({t for text in texts for t in text} or {0})))
    pad = data.draw(st.sampled_from([0, 3]))
    options = {"eos_token_id": eos, "pad_token_id": pad, "lengths": lengths}
    expected = generate.generate(model, ids, steps, **options)
    out, stats = generate_speculative(model, ids, steps, draft_tokens=drafts, **options)
    assert out.dtype == np.int64 and out.tolist() == expected.tolist()
    ended = [plain(model, row[:n], steps, eos) for row, n in zip(ids, lengths, strict=True)]
    assert stats.tokens == sum(map(len, ended))


@given(deep, seeds, st.integers(1, 6), st.integers(1, 12), st.sampled_from([0.0, 0.2, 1.0]))
@settings(max_examples=40)
def test_every_draft_is_what_modules_that_read_all_anew_would_draft(
    config, seed, drafts, steps, noise
):
    """And it is counted: by position, drafted and accepted, passes, tokens, the rates."""
    model, prompt = rigged(config, seed, noise, noise), draw_ids(config, seed, 1, 3)
    text = plain(model, prompt[0], steps)
    eos = text[len(text) // 2] if seed % 2 else None
    written = text[: text.index(eos) + 1] if eos is not None else text
    rounds = slow_rounds(model, prompt[0].tolist(), written, steps, drafts)
    found = []

    def watched(logits, drafts, *rest):
        found.append(drafts[0].tolist())
        return verify(logits, drafts, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speculative, "verify", watched)
        _, stats = generate_speculative(model, prompt, steps, draft_tokens=drafts, eos_token_id=eos)
    assert found == [made for _, _, made in rounds]
    by_position = [[sum(r[i] > j for r in rounds) for j in range(drafts)] for i in (0, 1)]
    assert [stats.drafted, stats.accepted] == by_position
    assert stats.main_forwards == stats.row_forwards == len(rounds)
    assert stats.tokens == len(written)
    drafted, accepted = (sum(r[i] for r in rounds) for i in (0, 1))
    assert stats.acceptance_rate == (accepted / drafted if drafted else 0)
    assert stats.tokens_per_forward == len(written) / len(rounds)


def test_the_strategies_reach_every_kind_of_round():
    """None, some and all accepted, by each module and by recurrence."""
    seen = Counter()
    for seed in range(6):
        model, prompt = rigged(NANO, seed, 0.25, 0.25), draw_ids(NANO, seed, 1, 3)
        written = plain(model, prompt[0], 30)
        rounds = slow_rounds(model, prompt[0].tolist(), written, 30, 3)
        seen.update(right for drafted, right, _ in rounds if drafted == 3)
    assert set(seen) == {0, 1, 2, 3}, seen


short = {"max_position_embeddings": 24, "rope_scaling": None}


@given(
    st.integers(1, 3).flatmap(lambda d: configs(num_nextn_predict_layers=d, **short)), seeds,
    st.integers(1, 4), st.sampled_from([0.2, 0.4]),
)  # fmt: skip
def test_up_to_the_last_position(config, seed, drafts, noise):
    """The long row may be a token from its end while the short one has room for many drafts."""
    limit = config.max_position_embeddings
    model, ids = rigged(config, seed, noise, noise), draw_ids(config, seed, 3, limit - 8)
    options = {"lengths": [limit - 8, 5, 3], "pad_token_id": 0}
    out, _ = generate_speculative(model, ids, 8, draft_tokens=drafts, **options)
    assert out.tolist() == generate.generate(model, ids, 8, **options).tolist()


# ------------------------------------------------------------------------------------ the caches


class Watched(Speculation):
    """Compares what is kept between rounds with what a fresh model would keep."""

    checks = rejected = 0

    def _draft(self, h, fresh):
        """Main caches and new states, the drafts, and the modules' caches after them."""
        layers, depth = self.model.mtp.layers, self.drafter.depth
        before = self.ends.copy()
        feed, laws = super()._draft(h, fresh)
        for b, n in enumerate(before):
            cache, slots = self.model.new_cache(1, n), self.model.mtp.new_cache(1, n)
            text = self.text[b : b + 1, :n]
            with no_grad():
                states, _ = self.model.hidden(text[:, : n - 1], cache)
                x = states
                for k in range(depth):
                    x = x[:, : max(0, n - 1 - k)]
                    embedded = self.model.model.embed_tokens(text[:, k + 1 : k + 1 + x.shape[1]])
                    x = x[:, : embedded.shape[1]]
                    if x.shape[1]:
                        x, _ = layers[k].step(x, embedded, slots.layers[k])
            assert feed[b, 1:].tolist() == slow_drafts(self.model, text[0], len(laws))
            new = fresh[b]
            assert relative(h[b, :new], states.data[0, n - 1 - new :]) < 1e-9
            for ours, theirs in zip(self.cache.layers, cache.layers, strict=True):
                assert ours.lengths[b] == n - 1
                assert relative(ours.data[b, : n - 1], theirs.data[0, : n - 1]) < 1e-9
            kept = max(0, n - depth)
            for ours, theirs in zip(self.drafter.cache.layers, slots.layers, strict=False):
                assert not laws or ours.lengths[b] == kept
                if laws and kept:
                    assert relative(ours.data[b, :kept], theirs.data[0, :kept]) < 1e-9
        self.checks += 1
        return feed, laws


@given(deep, seeds, st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 4))
def test_caches_and_states_after_a_round_are_those_of_a_fresh_pass(config, seed, lengths, drafts):
    """Every layer's and module's, to 1e-9 in float64, whatever was accepted."""
    check_rounds(rigged(config, seed), seed, lengths, drafts)


def check_rounds(model, seed, lengths, drafts):
    ids = draw_ids(model.config, seed, len(lengths), max(lengths))
    asked = request(model, ids, 9, 0.0, None, 1.0, None, None, np.array(lengths))
    watched = Watched(model, asked, drafts)
    assert all(rows for rows, _ in watched)
    assert watched.checks == watched.stats.main_forwards - 1


@pytest.mark.parametrize("modules", [1, 4])
@pytest.mark.parametrize("lengths", [[1], [2], [1, 2, 4]])
def test_prompts_shorter_than_the_modules_are_deep(lengths, modules):
    """Then fewer states are kept for slots that are made again than modules want. One module makes
    as many drafts on its own output, for rows that accept different numbers of them."""
    config = DeepSeekV3Config.preset("nano", num_nextn_predict_layers=modules)
    for seed in range(2):
        check_rounds(rigged(config, seed), seed, lengths, 4)


def test_padding_is_drafted_by_no_expert(monkeypatch):
    """Two experts for each slot that is new: as many as the row accepted, and one."""
    model, ids, routed = rigged(NANO, 0), draw_ids(NANO, 0, 3, 5), []
    step, fresh, draft = MTPLayer.step, [], Speculation._draft

    def noted(self, h, embedded, *rest):
        x, routing = step(self, h, embedded, *rest)
        routed.append(sum(routing.counts))
        return x, routing

    def watched(self, h, new):
        fresh.append(int(new.sum()))
        return draft(self, h, new)

    monkeypatch.setattr(MTPLayer, "step", noted)
    monkeypatch.setattr(Speculation, "_draft", watched)
    generate_speculative(model, ids, 9, draft_tokens=1, lengths=[5, 2, 4], pad_token_id=0)
    together = routed[:4]  # with all rows, or two
    assert together == [2 * n for n in fresh[: len(together)]] and together[0] == 2 * 11


def test_rows_that_have_ended_leave_the_batch(monkeypatch):
    """Nothing is computed for them, and they are not counted."""
    model, ids = rigged(NANO, 1), draw_ids(NANO, 1, 3, 4)
    texts = [plain(model, row, 9) for row in ids]
    eos = next(t for t in texts[1] if t not in texts[0])
    batches, hidden = [], DeepSeekV3.hidden

    def watched(self, ids, *rest):
        batches.append(len(ids))
        return hidden(self, ids, *rest)

    monkeypatch.setattr(DeepSeekV3, "hidden", watched)
    _, stats = generate_speculative(model, ids, 9, eos_token_id=eos, draft_tokens=2)
    monkeypatch.undo()
    assert batches[0] == 3 and batches == sorted(batches, reverse=True) and batches[-1] < 3
    ended = [plain(model, row, 9, eos) for row in ids]
    assert min(map(len, ended)) < 9 and stats.tokens == sum(map(len, ended))
    alone = [
        slow_rounds(model, row.tolist(), new, 9, 2) for row, new in zip(ids, ended, strict=True)
    ]
    assert stats.row_forwards == sum(map(len, alone))
    assert sum(stats.accepted) == sum(right for rounds in alone for _, right, _ in rounds)


@pytest.mark.parametrize("draft_tokens", [1, 2, 3])
def test_right_drafts_are_all_accepted(draft_tokens):
    model, ids = rigged(NANO, 0, 0.0, 0.0), draw_ids(NANO, 0, 2, 3)
    new = 1 + 6 * (draft_tokens + 1)
    _, stats = generate_speculative(model, ids, new, draft_tokens=draft_tokens)
    assert stats.drafted == stats.accepted == [12] * draft_tokens and stats.acceptance_rate == 1
    assert stats.main_forwards == 7 and stats.row_forwards == 14
    assert stats.tokens_per_forward == new / 7
    assert stats.drafting > 0 and stats.verifying > 0


@pytest.mark.parametrize("sampling", [(1.0, 1, 1.0), (1.0, None, 1e-9), (1e-9, None, 1.0)])
def test_drafts_have_the_law_that_is_sampled_from(sampling):
    """Cut to one token by top_k, top_p or temperature, right drafts are all accepted."""
    model, ids = rigged(NANO, 0, 0.0, 0.0), draw_ids(NANO, 0, 1, 3)
    out, stats = generate_speculative(model, ids, 13, *sampling, draft_tokens=3)
    assert out[0, 3:].tolist() == plain(model, ids[0], 13) and stats.acceptance_rate == 1


def test_nothing_to_write():
    out, stats = generate_speculative(build(NANO), [[1, 2]], 0)
    assert out.tolist() == [[1, 2]]
    assert stats.main_forwards == 0 and stats.tokens_per_forward == stats.acceptance_rate == 0
    out, stats = generate_speculative(build(NANO), [[1, 2]], 1)
    assert out.shape == (1, 3) and stats.drafted == [0] and stats.tokens_per_forward == 1


# --------------------------------------------------------------------------------------- the law


def two_laws(seed, vocab):
    """p and q of several rows: with zeros in different places, equal, without a common token."""
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(vocab), 6), rng.dirichlet(np.full(vocab, 0.3), 6)
    p[rng.random(p.shape) < 0.3] = 0
    q[rng.random(q.shape) < 0.3] = 0
    for law in (p, q):
        law[np.arange(6), rng.integers(vocab, size=6)] += 0.1
        law /= law.sum(-1, keepdims=True)
    q[0] = p[0]
    p[1], q[1] = np.eye(vocab)[0], np.eye(vocab)[vocab - 1]
    return p, q


@given(seeds, st.integers(1, 9))
def test_a_draft_or_its_residual_has_exactly_the_law_p(seed, vocab):
    """And it is accepted with 1 − TV."""
    p, q = two_laws(seed, vocab)
    tokens = np.arange(vocab)
    written, accepted = np.zeros_like(p), np.zeros(len(p))
    for y in tokens:
        by_draft = q[:, y] * acceptance(p, q, np.full(len(p), y))
        written[:, y] += by_draft
        accepted += by_draft
    r = residual(p, q)
    assert (r >= 0).all() and np.allclose(r.sum(-1), 1, atol=1e-12)
    assert np.abs(written + (1 - accepted)[:, None] * r - p).max() < 1e-12
    assert np.abs(accepted - (1 - 0.5 * np.abs(p - q).sum(-1))).max() < 1e-12
    assert np.array_equal(r[0], p[0])  # nothing is refused there


def test_extremes_of_the_rule():
    p, q = np.array([[0.5, 0.5, 0.0]]), np.array([[1.0, 0.0, 0.0]])
    assert acceptance(p, q, np.array([0])) == 0.5 and residual(p, q).tolist() == [[0, 1, 0]]
    tiny = np.array([[1 - 1e-320, 1e-320, 0]])
    assert acceptance(p, tiny, np.array([1])) == 1  # p/q would overflow
    assert acceptance(tiny, p, np.array([1])) < 1e-300
    assert acceptance(q, q, np.array([1])) == 1  # 0/0: never drafted
    near = np.array([[0.5 + 1e-16, 0.5 - 1e-16, 0.0]])
    assert np.isfinite(residual(near, p)).all()


class Given:
    """A generator whose uniform numbers are given, one after the other."""

    def __init__(self, numbers):
        self.numbers = list(np.ravel(numbers))

    def random(self, shape):
        size = int(np.prod(shape))
        taken, self.numbers = self.numbers[:size], self.numbers[size:]
        return np.array(taken).reshape(shape)


@given(
    seeds, st.integers(1, 4), st.integers(0, 3),
    st.sampled_from([(1.0, None, 1.0), (0.7, 2, 0.8)]),
)  # fmt: skip
def test_a_batch_is_judged_row_by_row(seed, rows, k, sampling):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((rows, k + 1, 5))
    close = logits[:, :k] + 0.5 * rng.standard_normal((rows, k, 5))
    laws = [probabilities(close[:, j], *sampling) for j in range(k)]
    drafts = np.array([draw(q, rng) for q in laws], np.int64).reshape(k, rows).T
    u, v = rng.random((k, rows)), rng.random(rows)
    accepted, token = verify(logits, drafts, laws, sampling, Given([*u.ravel(), *v]))
    for b in range(rows):
        law = [probabilities(logits[b, j][None], *sampling)[0] for j in range(k + 1)]
        right = 0
        while right < k:
            y, q = drafts[b, right], laws[right][b]
            if u[right, b] >= law[right][y] / q[y]:
                break
            right += 1
        last = law[right] if right == k else np.maximum(law[right] - laws[right][b], 0)
        assert accepted[b] == right and token[b] == draw(last[None], Given([v[b]]))[0]


class Tree:
    """A source of random numbers that takes every branch of a program once, and knows its chance.

    A branch is a token of a law, or a draft's acceptance; u is put in the middle of its share.
    """

    def __init__(self, monkeypatch):
        self.path, self.options = [], []
        for module in (generate, speculative):
            monkeypatch.setattr(module, "draw", self.draw)
        monkeypatch.setattr(speculative, "acceptance", self.acceptance)

    def runs(self, program):
        """(chance, result) of every way through the program."""
        while True:
            self.at, self.chance = 0, 1.0
            yield program(), self.chance
            while self.path and self.path[-1] + 1 == self.options[-1]:
                self.path.pop()
                self.options.pop()
            if not self.path:
                return
            self.path[-1] += 1

    def branch(self, chances):
        """The number of the branch taken, of those that have a chance."""
        possible = np.flatnonzero(np.array(chances) > 0)
        if self.at == len(self.path):
            self.path.append(0)
            self.options.append(len(possible))
        assert self.options[self.at] == len(possible)
        taken = possible[self.path[self.at]]
        self.at += 1
        self.chance *= chances[taken]
        return taken

    def draw(self, p, rng):
        assert rng is self and len(p) == 1
        cuts = np.concatenate([[0], np.cumsum(p[0])]) / p[0].sum()
        token = self.branch(p[0])
        tokens = draw(p, Given([(cuts[token] + cuts[token + 1]) / 2]))
        assert tokens.tolist() == [token]
        return tokens

    def acceptance(self, p, q, drafts):
        self.shares = acceptance(p, q, drafts)
        return self.shares

    def random(self, shape):
        assert shape == 1
        yes = self.shares[0]
        return np.array([yes / 2 if self.branch([yes, 1 - yes]) == 0 else (1 + yes) / 2])


def target_law(model, prompt, steps, sampling, eos):
    """Every text of the plain model and its chance: products of whole passes' probabilities."""
    law, unfinished = {}, {(): 1.0}
    for step in range(steps):
        longer = {}
        for text, chance in unfinished.items():
            with no_grad():
                z = model(np.array([[*prompt, *text]])).data[:, -1]
            for token, p in enumerate(probabilities(z, *sampling)[0]):
                if p > 0:
                    ended = token == eos or step == steps - 1
                    (law if ended else longer)[(*text, token)] = chance * p
        unfinished = longer
    return law if steps else {(): 1.0}


@pytest.mark.parametrize(
    ("vocab", "steps", "draft_tokens", "sampling", "eos", "modules"),
    [
        (3, 3, 1, (1.0, None, 1.0), None, 1),
        (3, 4, 2, (1.3, None, 1.0), 1, 1),
        (4, 4, 2, (0.8, 2, 1.0), None, 2),
        (5, 5, 3, (1.0, None, 0.55), 2, 1),
        (6, 4, 2, (1.5, 3, 0.7), None, 1),
        (4, 5, 3, (0.6, 2, 0.95), 3, 2),
        (4, 6, 4, (0.0, None, 1.0), None, 2),
    ],
)
def test_the_law_of_texts_is_the_models_by_enumeration(
    monkeypatch, vocab, steps, draft_tokens, sampling, eos, modules
):
    """Every path of the algorithm with its probability, no sampling noise: equal to 1e-12."""
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = DeepSeekV3Config.preset(
        "nano", vocab_size=vocab, num_nextn_predict_layers=modules, **ids
    )
    model, prompt = rigged(config, 3, 0.6, 1.0), [1, 2]
    expected = target_law(model, prompt, steps, sampling, eos)
    found, tree, paths, kinds = Counter(), Tree(monkeypatch), 0, Counter()

    def program():
        asked = request(model, [prompt], steps, *sampling, eos, tree, None)
        run = Speculation(model, asked, draft_tokens)
        text = [token for _, blocks in run for token in blocks[0]]
        kinds.update(run.stats.accepted)
        return tuple(text)

    for text, chance in tree.runs(program):
        found[text] += chance
        paths += 1
    assert sum(found.values()) == pytest.approx(1, abs=1e-12)
    assert set(found) == set(expected)
    assert max(abs(found[text] - expected[text]) for text in expected) < 1e-12
    assert kinds[1] > 0 and (paths > 40 or not sampling[0])


# ----------------------------------------------------------------------- devices, random numbers


def test_every_device_writes_the_same(device):
    """Batched and alone, greedy and sampled, over the strict stand-in for CuPy."""
    model = rigged(NANO, 4)
    there = model if device == "cpu" else model.to(device)
    ids, lengths = draw_ids(NANO, 4, 3, 5), [5, 2, 4]
    for sampling in ((0.0, None, 1.0), (1.0, 8, 0.95)):
        for rows in (3, 1):
            options = {"draft_tokens": 3, "eos_token_id": 7, "lengths": lengths[:rows]}
            one, two = (
                generate_speculative(m, ids[:rows], 10, *sampling, **options,
                                     rng=np.random.default_rng(5))
                for m in (model, there)
            )  # fmt: skip
            assert type(two[0]) is np.ndarray and one[0].tolist() == two[0].tolist()
            assert one[1].accepted == two[1].accepted


def test_draws_come_from_the_generator_alone():
    model, ids = rigged(NANO, 0), draw_ids(NANO, 0, 2, 3)

    def text(rng, temperature=1.0):
        return generate_speculative(model, ids, 8, temperature, rng=rng)[0].tolist()

    assert text(np.random.default_rng(7)) == text(np.random.default_rng(7))
    assert text(np.random.default_rng(7)) != text(np.random.default_rng(8))
    assert text(None) == text(np.random.default_rng(2024)) == text(None)
    unused = np.random.default_rng(7)
    text(unused, temperature=0.0)
    assert unused.random() == np.random.default_rng(7).random()


def test_one_sequence_is_decoded_and_drafted_without_tensors(monkeypatch):
    """As `generate` does; a batch is not; what is left of a batch is, too."""
    calls = Counter()
    for module, name in ((speculative, "read"), (drafter, "padded")):  # the ways with Tensors
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, real=real, name=name: calls.update([name]) or real(*a)
        )
    model, ids = rigged(NANO, 0), draw_ids(NANO, 0, 2, 9)
    generate_speculative(model, ids[:1], 8, draft_tokens=2)
    assert calls == {"read": 1, "padded": 2}  # the prompt, by each module
    calls.clear()
    _, stats = generate_speculative(model, ids, 8, draft_tokens=2)
    together = min(stats.main_forwards, calls["read"])  # until one row has all its tokens
    assert together > 2 and calls["padded"] >= 2 * (together - 1)
    eos = next(t for t in plain(model, ids[0], 8) if t not in plain(model, ids[1], 8))
    calls.clear()
    _, stats = generate_speculative(model, ids, 8, draft_tokens=2, eos_token_id=eos)
    assert 0 < calls["read"] < stats.main_forwards


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"draft_tokens": 0}, "draft_tokens: got 0, expected an integer of at least 1"),
        ({"draft_tokens": -2}, "draft_tokens: got -2, expected an integer of at least 1"),
        ({"draft_tokens": 1.5}, "draft_tokens: got 1.5, expected an integer of at least 1"),
        ({"draft_tokens": True}, "draft_tokens: got True, expected an integer of at least 1"),
        ({"draft_tokens": None}, "draft_tokens: got None, expected an integer of at least 1"),
        ({"draft_tokens": 62}, "draft_tokens: 3 prompt tokens and drafts of 62 are more than "
                               "max_position_embeddings 64"),
        ({"temperature": -0.5}, "temperature: got -0.5, expected a number of at least 0"),
        ({"top_k": 0}, "top_k: got 0, expected None or an integer of at least 1"),
        ({"top_p": 0.0}, r"top_p: got 0.0, expected a number in \(0, 1\]"),
        ({"max_new_tokens": -1}, "max_new_tokens: got -1, expected an integer ≥ 0"),
        ({"max_new_tokens": 62}, "max_new_tokens: 3 prompt tokens and 62 new ones are more than "
                                 "max_position_embeddings 64"),
        ({"eos_token_id": 264}, "eos_token_id: got 264, expected None or a token from 0 to 263"),
        ({"pad_token_id": 999}, "pad_token_id: got 999, expected None or a token from 0 to 263"),
        ({"lengths": [3]}, r"lengths: got \[3\], expected 2 integers from 1 to 3"),
        ({"lengths": [2, 3]}, "pad_token_id: got None, needed for rows that differ in length"),
        ({"ids": [[1, 264]]}, "ids: got token 264, expected 0 to 263"),
        ({"ids": [1, 2]}, r"ids: got int64 of shape \(2,\), expected integers \(batch, tokens\)"),
    ],
    ids=str,
)  # fmt: skip
def test_refused_before_any_work(monkeypatch, options, sentence):
    monkeypatch.setattr(DeepSeekV3, "hidden", None)
    arguments = {"ids": [[1, 2, 3]] * 2, "max_new_tokens": 4} | options
    with pytest.raises(InputError, match=f"^{sentence}$"):
        generate_speculative(DeepSeekV3.empty(NANO), **arguments)


def test_a_model_without_modules_is_refused():
    config = dataclasses.replace(NANO, num_nextn_predict_layers=0)
    sentence = r"^model: it has no MTP module \(num_nextn_predict_layers = 0\), which drafts need$"
    with pytest.raises(InputError, match=sentence):
        generate_speculative(DeepSeekV3.empty(config), [[1]], 4)

"""The routed experts in FP8: a loop over experts of linear layers, and what they keep and serve."""

import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.autograd import backend, blocks
from minideepseek.autograd.engine import PRIMITIVES, Parameter, Tensor, no_grad, ops
from minideepseek.autograd.gradcheck import check_vjp
from minideepseek.errors import InputError
from minideepseek.layers.fp8 import quantize
from minideepseek.layers.fp8.experts import FP8Experts, StoredFP8Experts
from minideepseek.layers.fp8.recipe import (
    FINE_GRAINED,
    HIGH_PRECISION,
    PER_TENSOR,
    SERVING,
    V3,
    Recipe,
    Scheme,
)
from minideepseek.layers.module import Init
from minideepseek.layers.moe import Experts
from tests.layers.common import seeds
from tests.layers.fp8.plain import relative

NOTHING = Recipe.uniform(Scheme(*[HIGH_PRECISION] * 5))
RECIPES = {"v3": V3, "fine": Recipe.uniform(FINE_GRAINED), "nothing": NOTHING}
recipes = st.sampled_from(sorted(RECIPES)).map(RECIPES.get)
fp8_expert_mlp = PRIMITIVES["fp8_expert_mlp"]


def draw(seed, n, d, m, experts, k, nowhere=False):
    """x (N, d), the stacks, gates (N, K), choices (N, K), a cotangent; float32."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * 2.0 ** rng.integers(-4, 4, (n, 1))
    gate_up = rng.standard_normal((experts, 2 * m, d)) / np.sqrt(d)
    gate_up *= 2.0 ** rng.integers(-3, 3, (experts, 1, 1))
    gate_up[:, m:] *= 8  # gate and up differ in size: a tile across both would show
    down = rng.standard_normal((experts, d, m)) * 2.0 ** rng.integers(-3, 3, (experts, 1, 1))
    weights = rng.random((n, k)) + 0.05
    likely = rng.permutation(experts)[: max(k, experts - 1)]  # one expert gets no token
    indices = np.array([rng.permutation(likely)[:k] for _ in range(n)]).reshape(n, k)
    if nowhere:
        indices[rng.random(n) < 0.3] = -1
    arrays = (a.astype(np.float32) for a in (x, gate_up, down, weights))
    return *arrays, indices, rng.standard_normal((n, d)).astype(np.float32)


def counts_of(indices, experts):
    return [int((indices == e).sum()) for e in range(experts)]


def by_loop(x, gate_up, down, weights, indices, recipe, rounded=False):
    """The same layer as fp8_linear, expert by expert; rounded: from SwiGLU's cached inputs, and D
    reading its input as backward does."""
    fall = replace(recipe.experts_down, x=HIGH_PRECISION) if rounded else recipe.experts_down
    m, total = down.shape[-1], None
    for e in range(down.shape[0]):
        rows, columns = np.nonzero(indices == e)
        if not rows.size:
            continue
        at = ops.take(x, rows)
        z = ops.fp8_linear(at, gate_up[e, :m], scheme=recipe.experts_up)
        u = ops.fp8_linear(at, gate_up[e, m:], scheme=recipe.experts_up)
        if rounded:
            z, u = (ops.fp8_round(a, tile=recipe.swiglu) for a in (z, u))
        gates = ops.take(ops.reshape(weights, shape=(-1, 1)), rows * indices.shape[1] + columns)
        a = ops.swiglu(z, u) * gates
        y = ops.fp8_linear(a, down[e], scheme=fall)
        spread = np.zeros((x.shape[0], rows.size), np.float32)
        spread[rows, np.arange(rows.size)] = 1
        y = ops.matmul(Tensor(spread), y)
        total = y if total is None else total + y
    return total


@given(
    st.sampled_from([1, 5, 40, 300]), st.sampled_from([3, 130, 256]),
    st.sampled_from([2, 64, 128, 160]), st.sampled_from([(3, 1), (4, 2), (5, 4)]),
    st.booleans(), recipes, seeds,
)  # fmt: skip
@settings(max_examples=30)
def test_is_a_loop_over_experts_of_linear_layers(n, d, m, sizes, nowhere, recipe, seed):
    """Values as they are; gradients from what backward has left: codes of z and u."""
    experts, k = sizes
    *arrays, indices, g = draw(seed, n, d, m, experts, k, nowhere)
    if not (indices >= 0).any():
        return
    options = {"counts": counts_of(indices, experts), "recipe": recipe}
    y, vjp = fp8_expert_mlp(*arrays, indices, **options)
    with no_grad():
        want = by_loop(*(Tensor(a) for a in arrays), indices, recipe)
    assert y.dtype == np.float32 and relative(y, want.data) < 3e-6
    parameters = [Parameter(a) for a in arrays]
    by_loop(*parameters, indices, recipe, rounded=True).backward(g)
    *gradients, none = vjp(g)
    assert none is None
    for p, got in zip(parameters, gradients, strict=True):
        assert got.dtype == np.float32 and got.shape == p.shape
        assert relative(got, p.grad) < 2e-5
    for again, once in zip(vjp(g)[:4], gradients, strict=True):
        assert np.array_equal(again, once)


@given(seeds, st.booleans())
@settings(max_examples=15)
def test_without_rounding_it_is_expert_mlp(seed, nowhere):
    *arrays, indices, g = draw(seed, 30, 12, 8, 5, 2, nowhere)
    arrays, g = [a.astype(np.float64) for a in arrays], g.astype(np.float64)
    counts = counts_of(indices, 5)
    y, vjp = fp8_expert_mlp(*arrays, indices, counts=counts, recipe=NOTHING)
    z, plain_vjp = PRIMITIVES["expert_mlp"](*arrays, indices, counts=counts)
    assert relative(y, z) < 1e-12
    for one, other in zip(vjp(g)[:4], plain_vjp(g)[:4], strict=True):
        assert relative(one, other) < 1e-12


def test_no_tokens_at_all():
    *arrays, indices, g = draw(0, 4, 6, 5, 3, 2)
    indices[...] = -1
    y, vjp = fp8_expert_mlp(*arrays, indices, counts=[0, 0, 0], recipe=V3)
    assert not y.any() and not any(a.any() for a in vjp(g)[:4])


@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_spoils_its_token_and_is_not_hidden():
    *arrays, indices, _ = draw(0, 20, 130, 64, 4, 2)
    arrays[0][3, 1] = np.nan
    y, _ = fp8_expert_mlp(*arrays, indices, counts=counts_of(indices, 4), recipe=V3)
    assert np.isnan(y[3]).all() and np.isfinite(np.delete(y, 3, 0)).all()


def test_it_keeps_a_token_once_and_swiglus_inputs_in_a_byte():
    """Of N = 400 tokens to K = 4 experts: N d bytes of x, 2 N K m of z and u, the matrices'."""
    n, d, m, experts, k = 400, 256, 128, 6, 4
    *arrays, indices, g = draw(0, n, d, m, experts, k)
    options = {"counts": counts_of(indices, experts), "recipe": V3}
    fp8_expert_mlp(*arrays, indices, **options)[1](g)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    y, vjp = fp8_expert_mlp(*arrays, indices, **options)
    kept = tracemalloc.get_traced_memory()[0] - before - y.nbytes
    tracemalloc.stop()
    codes = n * d + 2 * n * k * m + (experts - 1) * 3 * m * d
    order = 3 * 8 * n * k  # token, place, gates
    assert callable(vjp) and codes < kept < 1.05 * codes + order


def test_the_same_numbers_on_each_device(device):
    *arrays, indices, g = draw(0, 50, 130, 160, 4, 2, nowhere=True)
    options = {"counts": counts_of(indices, 4), "recipe": V3}
    sent = [backend.to_device(a, device) for a in (*arrays, indices, g)]
    y, vjp = fp8_expert_mlp(*sent[:5], **options)
    z, plain_vjp = fp8_expert_mlp(*arrays, indices, **options)
    for one, other in zip((y, *vjp(sent[5])[:4]), (z, *plain_vjp(g)[:4]), strict=True):
        assert backend.device_of(one).name == device
        assert relative(backend.to_host(one), other) < 1e-6


def test_threads_change_nothing():
    *arrays, indices, g = draw(0, 200, 130, 64, 5, 2)
    results = []
    for count in (1, 3):
        blocks.set_threads(count)
        try:
            y, vjp = fp8_expert_mlp(*arrays, indices, counts=counts_of(indices, 5), recipe=V3)
            results.append([y, *vjp(g)[:4]])
        finally:
            blocks.set_threads(1)
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


# ----------------------------------------------------------------------------------------- classes


def experts(seed=0, d=130, m=160, count=4):
    sizes = SimpleNamespace(n_routed_experts=count, moe_intermediate_size=m, hidden_size=d)
    module = Experts(sizes, Init(None, 0.0))
    _, module.gate_up_proj.data[...], module.down_proj.data[...], *_ = draw(seed, 1, d, m, count, 1)
    return module


def stored(module, recipe=SERVING):
    state = module.state_dict()
    names = ("gate_proj", "up_proj", "down_proj")
    count = module.down_proj.shape[0]
    parts = [[quantize(state[f"{e}.{n}.weight"]) for n in names] for e in range(count)]
    return StoredFP8Experts(parts, recipe)


def call(module, seed=1, n=30, d=130, count=4, k=2):
    x, _, _, weights, indices, _ = draw(seed, n, d, 1, count, k)
    with no_grad():
        return module(Tensor(x), Tensor(weights), indices, counts_of(indices, count)).data


def test_of_shares_parameters_and_names():
    module = experts()
    layer = FP8Experts.of(module)
    assert [p for _, p in layer.named_parameters()] == [module.gate_up_proj, module.down_proj]
    for (one, a), (other, b) in zip(layer.named_tensors("e."), module.named_tensors("e."),
                                    strict=True):  # fmt: skip
        assert one == other and np.shares_memory(a, b)
    assert 0 < relative(call(layer), call(module)) < 0.2
    off = [relative(call(FP8Experts.of(module, r)), call(module))
           for r in (NOTHING, Recipe.uniform(PER_TENSOR))]  # fmt: skip
    assert off[0] < 1e-6 < off[1]


def test_stored_they_are_a_checkpoints_tensors():
    module = experts()
    layer, state = stored(module), module.state_dict()
    assert not layer.parameters()
    found = layer.state_dict()
    assert list(found) == [n for name in state for n in (name, f"{name}_scale_inv")]
    for name, array in state.items():
        codes, scales = quantize(array)
        assert found[name].dtype == np.uint8 and np.array_equal(found[name], codes)
        assert np.array_equal(found[f"{name}_scale_inv"], scales)
        assert np.shares_memory(found[name], vars(layer)[_stack(name)])


def _stack(name):
    return "down_proj" if "down" in name else "gate_up_proj"


@pytest.mark.parametrize("recipe", [V3, SERVING], ids=["v3", "weights"])
def test_stored_they_compute_what_training_does_forward(recipe):
    module = experts()
    assert np.array_equal(call(stored(module, recipe)), call(FP8Experts.of(module, recipe)))


def test_gradients_pass_through_stored_experts():
    module = experts(d=12, m=8)
    layer = stored(module)
    x, _, _, weights, indices, _ = draw(2, 9, 12, 1, 4, 2)
    stacks = [getattr(layer, name) for name in layer.buffers]
    arguments = x.astype(float), *stacks, weights.astype(float), indices
    options = {"counts": counts_of(indices, 4), "recipe": SERVING}
    check_vjp(PRIMITIVES["fp8_stored_expert_mlp"], *arguments, rng=np.random.default_rng(0),
              constants=("gate_up_scale", "down_scale"), **options)  # fmt: skip


def test_they_move_to_a_device(device):
    layer = stored(experts())
    there = layer.to(device)
    x, _, _, weights, indices, _ = draw(1, 30, 130, 1, 4, 2)
    sent = [backend.to_device(a, device) for a in (x, weights, indices)]
    with no_grad():
        y = there(Tensor(sent[0]), Tensor(sent[1]), sent[2], counts_of(indices, 4))
    assert y.device == device and relative(y.numpy(), call(layer)) < 1e-6


def test_serving_decodes_one_expert_at_a_time():
    module = experts(d=256, m=256, count=16)
    layer = stored(module)
    call(layer, d=256, count=16)
    tracemalloc.start()
    call(layer, d=256, count=16)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 8192 + 4 * 30 * 256
    assert peak < 0.4 * sum(p.data.nbytes for p in module.parameters())


def test_refuses_parts_that_are_no_experts():
    good = [quantize(np.ones((8, 6))), quantize(np.ones((8, 6))), quantize(np.ones((6, 8)))]
    StoredFP8Experts([good, good])
    with pytest.raises(InputError, match=r"parts: got gate and up of \(16, 6\) .* \(5, 8\)"):
        StoredFP8Experts([[*good[:2], quantize(np.ones((5, 8)))]])
    with pytest.raises(InputError, match="scale_inv: got shape"):
        StoredFP8Experts([[*good[:2], (good[2][0], good[2][1][:0])]])

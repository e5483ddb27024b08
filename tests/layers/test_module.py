"""Modules: names are paths, arrays are never replaced, plain layers are their formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minideepseek.autograd.backend import device_of
from minideepseek.autograd.engine import Parameter, Tensor
from minideepseek.autograd.gradcheck import gradcheck
from minideepseek.errors import CheckpointError, InputError
from minideepseek.layers.module import MLP, Embedding, Init, Linear, Module, RMSNorm
from minideepseek.layers.moe import DeepSeekMoE
from minideepseek.model.config import DeepSeekV3Config
from tests import standin
from tests.layers.common import layer, normal, scramble, seeds

NANO = DeepSeekV3Config.preset("nano")


class Pair(Module):
    """A module with every kind of part."""

    buffers = ("counts",)

    def __init__(self, init):
        self.width = 3
        self.first = Linear(3, 2, init, bias=True)
        self.layers = [RMSNorm(3, 1e-6, init), Linear(3, 3, init)]
        self.scale = init.full(2.0, 3)
        self.counts = np.zeros(4, np.float32)
        self.nothing: list[Module] = []


def pair(seed=0):
    return scramble(Pair(Init(None, 0.0, np.float64)), seed)


shapes = hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4)


# ------------------------------------------------------------------------------------------ layers


@given(shapes, seeds, st.booleans())
def test_linear_multiplies_by_rows_of_out_times_in(lead, seed, bias):
    linear = layer(Linear, 3, 2, seed=seed, bias=bias)
    x = normal(seed, *lead, 3)
    expected = x @ linear.weight.data.T + (linear.bias.data if bias else 0)
    assert linear.weight.shape == (2, 3)
    assert np.allclose(linear(Tensor(x)).data, expected, atol=1e-14)
    assert [name for name, _ in linear.named_tensors()] == ["weight", "bias"][: 1 + bias]


@given(shapes, seeds)
def test_embedding_takes_rows(shape, seed):
    table = layer(Embedding, 7, 3, seed=seed)
    ids = np.random.default_rng(seed).integers(0, 7, shape)
    assert np.array_equal(table(ids).data, table.weight.data[ids])


@given(shapes, seeds, st.sampled_from([1e-6, 1e-2, 1.0]), st.sampled_from([1e-3, 1.0, 30.0]))
def test_rms_norm_divides_by_the_root_of_the_mean_square(lead, seed, eps, size):
    norm = layer(RMSNorm, 5, eps, seed=seed)
    x = normal(seed, *lead, 5) * size
    expected = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * norm.weight.data
    assert np.allclose(norm(Tensor(x)).data, expected, rtol=1e-13, atol=0)


@given(shapes, seeds)
def test_mlp_is_down_of_silu_gate_times_up(lead, seed):
    mlp = layer(MLP, 3, 5, seed=seed)
    x = normal(seed, *lead, 3)
    gate, up, down = (p.weight.data for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    z = x @ gate.T
    expected = (z / (1 + np.exp(-z)) * (x @ up.T)) @ down.T
    assert np.allclose(mlp(Tensor(x)).data, expected, atol=1e-13)


def test_gradients_of_the_plain_layers():
    x = normal(1, 2, 3, 4)
    for made in (layer(MLP, 4, 5), layer(RMSNorm, 4, 1e-6), layer(Linear, 4, 3, bias=True)):
        gradcheck(lambda x, f=made: f(x), x, parameters=dict(made.named_parameters()))


# ------------------------------------------------------------------------------------------- names


def test_names_are_paths_of_attributes():
    """In the order of the attributes; a buffer is stored and not trained."""
    trained = ["scale", "first.weight", "first.bias", "layers.0.weight", "layers.1.weight"]
    module = pair()
    assert [name for name, _ in module.named_parameters()] == trained
    assert [name for name, _ in module.named_tensors()] == ["scale", "counts", *trained[1:]]
    assert [name for name, _ in module.named_parameters("a.")] == [f"a.{n}" for n in trained]
    assert [id(p) for p in module.parameters()] == [id(p) for _, p in module.named_parameters()]


def test_state_dict_is_the_models_own_memory():
    module = pair()
    state = module.state_dict()
    for name, parameter in module.named_parameters():
        assert state[name] is parameter.data
    assert state["counts"] is module.counts


def test_experts_are_named_one_by_one_and_stay_views_of_the_stack():
    """Gate above up in the stack; writing through a name changes what is computed with."""
    moe = layer(DeepSeekMoE, NANO)
    stack, down = moe.experts.gate_up_proj.data, moe.experts.down_proj.data
    assert stack.shape == (8, 32, 32) and down.shape == (8, 32, 16)
    state = moe.state_dict()
    for e in range(8):
        assert np.array_equal(state[f"experts.{e}.gate_proj.weight"], stack[e, :16])
        assert np.array_equal(state[f"experts.{e}.up_proj.weight"], stack[e, 16:])
        assert np.array_equal(state[f"experts.{e}.down_proj.weight"], down[e])
    state["experts.5.up_proj.weight"][...] = 7
    assert (stack[5, 16:] == 7).all() and (stack[5, :16] != 7).all()
    assert all(np.shares_memory(a, stack) or np.shares_memory(a, down)
               for name, a in state.items() if name.startswith("experts."))  # fmt: skip
    names = [name for name, _ in moe.named_parameters() if name.startswith("experts")]
    assert names == ["experts.gate_up_proj", "experts.down_proj"]


# ----------------------------------------------------------------------------------------- loading


def test_loading_copies_into_the_arrays_there_are():
    module, other = pair(0), pair(1)
    before = {name: id(array) for name, array in module.named_tensors()}
    kept = {name: parameter.data for name, parameter in module.named_parameters()}
    module.load_state_dict({name: a.astype(np.float32) for name, a in other.named_tensors()})
    assert {name: id(array) for name, array in module.named_tensors()} == before
    for name, parameter in module.named_parameters():
        assert parameter.data is kept[name] and parameter.dtype == np.float64
    for name, array in other.named_tensors():
        assert np.array_equal(module.state_dict()[name], array.astype(np.float32))
    other.scale.data[...] = -1
    assert (module.scale.data != -1).all()  # a copy, not the same memory


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.pop("scale"), "state: 1 missing tensors: scale"),
        (
            lambda s: [s.pop(n) for n in list(s)[:5]],
            r"state: 5 missing tensors: counts, first\.bias, first\.weight, …",
        ),
        (lambda s: s.update(extra=np.ones(1)), "state: 1 unexpected tensors: extra"),
        (
            lambda s: s.update({"first.weight": np.ones((3, 2))}),
            r"first\.weight: the model wants shape \(2, 3\), the checkpoint has \(3, 2\)",
        ),
        (
            lambda s: s.update(counts=np.float32(1)),
            r"counts: the model wants shape \(4,\), the checkpoint has \(\)",
        ),
    ],
    ids=["missing", "many missing", "unexpected", "transposed", "scalar"],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_written(change, sentence):
    module, state = pair(0), dict(pair(1).state_dict())
    before = {name: array.copy() for name, array in module.named_tensors()}
    change(state)
    with pytest.raises(CheckpointError, match=f"^{sentence}$"):
        module.load_state_dict(state)
    for name, array in module.named_tensors():
        assert np.array_equal(array, before[name])


# ----------------------------------------------------------------------------------------- devices


def test_to_makes_a_copy_on_the_device_and_leaves_the_module():
    standin.install()
    module = layer(DeepSeekMoE, NANO)
    assert module.to("cpu") is module
    there = module.to("standin")
    assert there.to("standin") is there
    assert type(there) is DeepSeekMoE and type(module.gate.weight.data) is np.ndarray
    assert isinstance(there.gate.weight, Parameter) and there.gate.weight.node.vjp is None
    back = there.to("cpu")
    for (name, a), (_, b), (_, c) in zip(
        module.named_tensors(), there.named_tensors(), back.named_tensors(), strict=True
    ):
        assert type(b) is standin.ndarray and np.array_equal(a, b.get()), name
        assert np.array_equal(a, c) and a.dtype == c.dtype and not np.shares_memory(a, c)
    there.load_state_dict(module.state_dict())  # host arrays into device arrays


@pytest.mark.parametrize("device", ["cpu", "standin"])
def test_to_moves_the_rest_of_a_module_on_two_devices(device):
    standin.install()
    module = pair()
    module.first = module.first.to("standin")
    assert {device_of(a).name for _, a in module.named_tensors()} == {"cpu", "standin"}
    moved = module.to(device)
    assert {device_of(a).name for _, a in moved.named_tensors()} == {device}
    assert device_of(moved.counts).name == device


def test_to_keeps_plain_attributes_and_refuses_an_unknown_device():
    standin.install()
    there = pair().to("standin")
    assert there.width == 3 and there.nothing == [] and type(there.counts) is standin.ndarray
    with pytest.raises(InputError, match="^device: got 'tpu', expected one of"):
        pair().to("tpu")


# ------------------------------------------------------------------------------------ first values


def test_init_draws_normal_numbers_of_its_deviation_from_its_generator():
    x = Init(np.random.default_rng(3), 0.02).normal(200, 300).data
    assert x.dtype == np.float32
    assert abs(x.mean()) < 4 * 0.02 / 60000**0.5 and x.std() == pytest.approx(0.02, rel=0.02)
    assert (abs(x) > 3 * 0.02).mean() == pytest.approx(0.0027, abs=0.001)
    again = Init(np.random.default_rng(3), 0.02, np.float64).normal(200, 300).data
    assert np.array_equal(x, again.astype(np.float32))  # the dtype changes no draw


def test_init_without_a_generator_is_zeros():
    init = Init(None, 0.0, np.float64)
    assert not init.normal(2, 3).data.any() and init.full(1.0, 4).data.tolist() == [1.0] * 4
    assert RMSNorm(3, 1e-6, init).weight.data.tolist() == [1.0] * 3
    assert Linear(3, 2, init, bias=True).bias.data.tolist() == [0.0] * 2

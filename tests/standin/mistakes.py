"""Mistakes in the package that NumPy forgives and CuPy does not, each with the test that sees it.

(file, what stands there, what a mistake would put there, the test that must fail, what it must say)

NumPy runs every one of them without a word, and most compute the same numbers. The stand-in refuses
most; those that only make the host wait are seen by the counts.
"""

from typing import NamedTuple


class Mistake(NamedTuple):
    """One replacement in a copy of the package. says: a pattern in the failing test's output."""

    file: str
    old: str
    new: str
    test: str
    says: str


DEVICE = "tests/model/test_device.py::test_"
READS = "tests/gpu/test_reads.py::test_"
LAYERS = "tests/gpu/test_layers.py::test_layers[standin-model]"
PRIMITIVES = "tests/gpu/test_primitives.py::test_"
TRAINING = READS + "a_step_of_training[False]"
WAITS = r"assert \(.*== |assert .* == |AssertionError"
MIXED = "Unsupported type ndarray"

MISTAKES = {
    # ------------------------------------------------------------- host and device arrays together
    "a host array added in place": Mistake(
        "layers/moe.py", "bias += like(backend.as_array(step, bias.dtype), bias)",
        "bias += backend.as_array(step, bias.dtype)", DEVICE + "training_steps", MIXED,
    ),
    "lengths left on the host": Mistake(
        "autograd/attention.py", "like(lengths, q)[:, None, None]", "lengths[:, None, None]",
        "tests/gpu/test_primitives.py::test_primitives[standin-attention]", MIXED,
    ),
    "positions left on the host": Mistake(
        "layers/cache.py", "like(at, new)[:, None] + xp.arange", "at[:, None] + xp.arange",
        "tests/gpu/test_layers.py::test_decoding[standin-naive]", "Unsupported type|np.* on a dev",
    ),
    "a scratch array on the host": Mistake(
        "training/optim.py", "vars(self._local)[name] = xp_of(like).empty_like(like)",
        "vars(self._local)[name] = __import__('numpy').empty(like.shape, like.dtype)",
        DEVICE + "training_steps", "out of cupy|Unsupported type|arrays on",
    ),
    "loads that stay on the host": Mistake(
        "layers/standard_moe.py", "like(backend.as_array(routing.counts, probs.dtype), probs.data)",
        "backend.as_array(routing.counts, probs.dtype)",
        "tests/layers/test_standard_moe.py::test_the_same_on_every_device[standin-top_of_softmax]",
        "multiply: argument 0 is on standin, argument 1 on cpu",
    ),
    "rollout lengths on the host": Mistake(
        "reasoning/grpo/scoring.py", "like(rollout.lengths[:, None] - 1, ids)",
        "(rollout.lengths[:, None] - 1)",
        "tests/reasoning/grpo/test_scoring.py::test_every_device_scores_the_same[standin]", MIXED,
    ),
    "ids looked up on the host": Mistake(
        "layers/module.py", "ops.take(self.weight, ids)",
        "ops.take(self.weight, backend.to_host(ids))", LAYERS, "take: argument 0 is on standin",
    ),
    "advantages on the host": Mistake(
        "reasoning/grpo/objective.py",
        "to_device(array.astype(logprobs.dtype, copy=False), logprobs.device)",
        "array.astype(logprobs.dtype, copy=False)",
        "tests/reasoning/grpo/test_trainer_runs.py::test_steps_on_a_device[standin-False]",
        "where: argument 0 is on cpu, argument 1 on standin",
    ),
    # ------------------------------------------------------------------------ np. on device arrays
    "np.where": Mistake(
        "autograd/backend.py", "x = xp.where(columns == picks[-1][..., None], -xp.inf, x)",
        "x = numpy.where(columns == picks[-1][..., None], -xp.inf, x)",
        PRIMITIVES + "what_differs_between_devices_by_name[standin-False]", "np.where on a device",
    ),
    "np.asarray of a result": Mistake(
        "model/generate.py", "return backend.to_host(model.logits(Tensor(h)).data)",
        "return np.asarray(model.logits(Tensor(h)).data)", READS + "a_step_of_decoding[1-False]",
        "Implicit conversion to a NumPy array is not allowed",
    ),
    "random numbers of the device": Mistake(
        "layers/moe.py", "    biased = scores + bias\n",
        "    biased = scores + bias + 0 * xp_of(scores).random.random(scores.shape)\n",
        LAYERS, "has no random",
    ),
    # --------------------------------------------------------------------- what CuPy does not have
    "errstate": Mistake(
        "autograd/primitives.py", "    y = xp.exp(x - x.max(axis, keepdims=True))",
        "    with xp.errstate(under='ignore'):\n        y = xp.exp(x - x.max(axis, keepdims=True))",
        "tests/gpu/test_primitives.py::test_primitives[standin-softmax]", "no attribute 'errstate'",
    ),
    "a sum with initial=": Mistake(
        "autograd/fused.py", "xp.sqrt(y2[s].sum(-1, keepdims=True)",
        "xp.sqrt(y2[s].sum(-1, keepdims=True, initial=0)",
        "tests/gpu/test_primitives.py::test_primitives[standin-rms_norm]", "no keyword 'initial'",
    ),
    "a ufunc with where=": Mistake(
        "autograd/fused.py", "xp.tanh(s, out=s)", "xp.tanh(s, out=s, where=True)",
        "tests/gpu/test_primitives.py::test_primitives[standin-swiglu]", "unexpected keyword",
    ),
    "a sort with kind=": Mistake(
        "layers/moe.py", "xp.sort(groups, -1)", "xp.sort(groups, -1, kind='quicksort')", LAYERS,
        "kind can only be None or 'stable'",
    ),
    "an argsort with kind=": Mistake(
        "autograd/experts.py", 'kind="stable")', 'kind="mergesort")', LAYERS,
        "kind can only be None or 'stable'",
    ),
    "an einsum with order=": Mistake(
        "autograd/fused.py", "xp.matmul(xs, weight.swapaxes(1, 2)).swapaxes(0, 1)",
        "xp.einsum('hnp,hop->nho', xs, weight, order='C')",
        "tests/gpu/test_primitives.py::test_primitives[standin-head_linear]", "no keyword 'order'",
    ),
    "clip with min= and max=": Mistake(
        "autograd/primitives.py", "xp_of(x).clip(x, low, high)",
        "xp_of(x).clip(x, min=low, max=high)",
        "tests/gpu/test_primitives.py::test_primitives[standin-clip]", "no keyword 'm",
    ),
    "maximum.reduce": Mistake(
        "layers/fp8/tiles.py", "return abs(values).max(1).max(-1)",
        "return xp_of(values).maximum.reduce(abs(values), axis=(1, 3))",
        PRIMITIVES + "primitives_in_fp8[standin-0-fp8_round]", "maximum.reduce` is not supported",
    ),
    "logaddexp.reduce": Mistake(
        "autograd/primitives.py", "y = m + xp.log(xp.exp(x - m).sum(axis, keepdims=True))",
        "y = xp.logaddexp.reduce(x, axis, keepdims=True)",
        "tests/gpu/test_primitives.py::test_primitives[standin-logsumexp]",
        "logaddexp.reduce` is not supported",
    ),
    # --------------------------------------------------------------------------- small dtypes
    "decoding by a cast from float8": Mistake(
        "layers/fp8/formats.py", 'table[flat[s].astype("int64")]  #',
        'flat[s].view("float8_e4m3fn").astype("float32")  #',
        PRIMITIVES + "codes_are_the_same_bit_for_bit[standin-E4M3]", "cannot compute with float8",
    ),
    "encoding by a cast to float8": Mistake(
        "layers/fp8/formats.py", "out[s] = encode_bits(float32_bits(flat[s]), format)",
        'out[s] = flat[s].astype("float8_e4m3fn").view("uint8")',
        PRIMITIVES + "codes_are_the_same_bit_for_bit[standin-E4M3]", "Unsupported dtype float8",
    ),
    "moments in float8": Mistake(
        "training/optim.py", "xp.zeros(p.shape, moments or p.dtype)",
        "xp.zeros(p.shape, moments and 'float8_e4m3fn' or p.dtype)",
        "tests/gpu/test_runs.py::test_twenty_steps_of_training[standin-True]",
        "Unsupported dtype float8",
    ),
    "stacked products in bfloat16": Mistake(
        "autograd/attention.py", "p = xp.matmul(qs, keys[:, :, :end].swapaxes(-1, -2))",
        "p = xp.matmul(*(a.astype('bfloat16') for a in (qs, keys[:, :, :end].swapaxes(-1, -2))))",
        LAYERS, "batched bfloat16 matmul",
    ),
    # ------------------------------------------------------------ the winner is left to chance
    "rows added by fancy assignment": Mistake(
        "autograd/backend.py", "xp.add.at(out, index, rows)", "out[index] += rows",
        PRIMITIVES + "what_differs_between_devices_by_name[standin-False]", "repeated indices",
    ),
    "experts' results added by fancy assignment": Mistake(
        "autograd/experts.py", "    y = gather_sum(results, place, indices)",
        "    y = xp.zeros_like(x)\n    y[token] += results", LAYERS, "repeated indices",
    ),
    # --------------------------------------------------------------------------- the host waits
    "a count for each expert": Mistake(
        "layers/moe.py", "return to_host(hits).tolist()", "return [int(n) for n in hits]", TRAINING,
        WAITS,
    ),
    "groups struck out through a mask": Mistake(
        "layers/moe.py", "return xp.where(mask[:, :, None], groups, -xp.inf).reshape(n, experts)",
        "groups = 1 * groups\n    groups[~mask] = -xp.inf\n    return groups.reshape(n, experts)",
        TRAINING, WAITS,
    ),
    "padding struck out through a mask": Mistake(
        "layers/moe.py", "indices = xp_of(indices).where(mask[:, None] != 0, indices, -1)",
        "indices[mask == 0] = -1", DEVICE + "a_step_reads", WAITS,
    ),
    "if array": Mistake(
        "autograd/experts.py", "    if rows.shape[0] < place.size:  # tokens",
        "    if (indices < 0).any():  # tokens", TRAINING, WAITS,
    ),
    "min() of a norm": Mistake(
        "training/optim.py",
        "factor = xp.fmin(max_norm / (norm + 1e-6), 1.0).astype(grads[0].dtype)",
        "factor = min(max_norm / (norm + 1e-6), 1.0)", TRAINING, WAITS,
    ),
    "float() of each gradient's square": Mistake(
        "training/optim.py", 'return xp.sqrt(xp.stack(squares).astype("float64").sum())',
        "return xp.sqrt(xp.asarray(sum(float(s) for s in squares)))", TRAINING, WAITS,
    ),
    "each watched number by itself": Mistake(
        "reasoning/grpo/objective.py",
        "to_host(xp.stack([xp.asarray(x, dtype) for x in looked_at])).tolist()",
        "[float(x) for x in looked_at]",
        "tests/reasoning/grpo/test_objective.py::test_the_same_on_a_device_with_one_look_at_it",
        WAITS,
    ),
    "an entropy read by itself": Mistake(
        "reasoning/grpo/metrics.py",
        'to_host(xp.stack([x.astype("float64") for x in found.values()])).tolist()',
        "[x.item() for x in found.values()]",
        "tests/reasoning/grpo/test_trainer_runs.py::test_how_often_the_host_waits", WAITS,
    ),
    "a scalar that becomes a number": Mistake(
        "autograd/fused.py", "return partial.sum() / n, vjp",
        "return float(partial.sum()) / n, vjp", LAYERS, "arrays on cpu and standin|argument",
    ),
}  # fmt: skip
A_FEW = ("a host array added in place", "np.where", "rows added by fancy assignment")

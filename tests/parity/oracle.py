"""transformers' DeepseekV3ForCausalLM as the oracle: built from our configuration and our names.

`load(config, state)` goes the way a user goes: a directory with config.json and model.safetensors,
then `from_pretrained`, which renames and stacks the experts itself. Attention and experts run in
their plain "eager" form. `lifted_casts()` makes a float64 model compute in float64 throughout.
"""

import contextlib
import json
import tempfile
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

_HOW = "parity needs the extra of that name: pip install -e '.[parity]'"
torch = pytest.importorskip("torch", reason=_HOW)
transformers = pytest.importorskip("transformers", minversion="5.0", reason=_HOW)
safetensors_numpy = pytest.importorskip("safetensors.numpy", reason=_HOW)

from transformers import modeling_rope_utils  # noqa: E402
from transformers.modeling_layers import MtpModel  # noqa: E402
from transformers.models.deepseek_v3 import modeling_deepseek_v3  # noqa: E402
from transformers.models.llama import modeling_llama  # noqa: E402

from minideepseek.model.config import DeepSeekV3Config  # noqa: E402
from minideepseek.model.layout import tensor_shapes  # noqa: E402

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class Oracle(NamedTuple):
    """transformers' model, and its MtpModel if the configuration has MTP modules."""

    model: Any
    mtp: Any


def random_state(
    config: DeepSeekV3Config, seed: int, dtype: Any = np.float32
) -> dict[str, np.ndarray]:
    """A checkpoint with nothing at its initial value: norms near 1, router biases of both signs."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in tensor_shapes(config):
        values = rng.standard_normal(shape) / np.sqrt(shape[-1])
        if len(shape) == 1:
            values = 0.3 * rng.standard_normal(shape) + (1.0 if "norm" in name else 0.0)
        state[name] = values.astype(dtype)
    return state


def load(
    config: DeepSeekV3Config, state: Mapping[str, np.ndarray], dtype: Any = torch.float32
) -> Oracle:
    """What `from_pretrained` makes of our configuration and a dict of checkpoint names.

    Fails if transformers misses a name of the main model, or finds one it does not expect.
    """
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(config.to_dict(), allow_nan=False)
        Path(folder, "config.json").write_text(text, encoding="utf-8")
        arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
        file = Path(folder, "model.safetensors")
        safetensors_numpy.save_file(arrays, file, metadata={"format": "pt"})
        return open_directory(folder, config, dtype)


def open_directory(folder: str | Path, config: DeepSeekV3Config, dtype: Any) -> Oracle:
    """transformers' models from a checkpoint directory, checked for missing and foreign names."""
    model, report = modeling_deepseek_v3.DeepseekV3ForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    of_mtp = tuple(f"model.layers.{config.num_hidden_layers + k}." for k in range(8))
    foreign = [name for name in report["unexpected_keys"] if not name.startswith(of_mtp)]
    assert not foreign and not report["missing_keys"], (foreign, report["missing_keys"])
    mtp = None
    if config.num_nextn_predict_layers:
        # transformers knows the MTP layers of V3's depth only, 61; tell it ours.
        model._keys_to_ignore_on_load_unexpected = [
            rf"model\.layers\.{config.num_hidden_layers + k}\."
            for k in range(config.num_nextn_predict_layers)
        ]
        mtp = MtpModel.from_pretrained(model).eval()
    return Oracle(model.eval(), mtp)


def logits(oracle: Oracle, ids: np.ndarray) -> np.ndarray:
    """(B, T, V) logits of the main model."""
    with torch.no_grad():
        return oracle.model(torch.from_numpy(ids)).logits.numpy()


def mtp_logits(oracle: Oracle, ids: np.ndarray) -> list[np.ndarray]:
    """Logits of each MTP module k = 1 … D, (B, T − k, V); slot i sees the tokens up to i + k."""
    with torch.no_grad():
        tokens = torch.from_numpy(ids)
        hidden = oracle.model.model(tokens).last_hidden_state  # after the final norm
        return [logits.numpy() for logits in after_main(oracle, hidden, tokens)]


def after_main(oracle: Oracle, hidden: Any, tokens: Any) -> Iterator[Any]:
    """Each MTP module's logits, given the main model's states of all the tokens: torch tensors."""
    for k in range(1, len(oracle.mtp.layers) + 1 if oracle.mtp else 1):
        positions = torch.arange(k, tokens.shape[1])[None]
        hidden = oracle.mtp.forward_layer(
            k - 1, hidden[:, :-1], positions, None, input_ids=tokens[:, k:]
        )
        yield oracle.mtp.shared_head(hidden)


def routing(oracle: Oracle, ids: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per MoE layer (indices, weights), (B·T, K) each, with the indices ascending in each row.

    The MTP modules' come last; module k routes B·(T − k) tokens.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        _, weights, indices = output
        order = indices.argsort(dim=-1)
        found.append((indices.gather(1, order).numpy(), weights.gather(1, order).numpy()))

    blocks = list(oracle.model.model.layers)
    blocks += [layer.mtp_block for layer in oracle.mtp.layers] if oracle.mtp else []
    gates = [block.mlp.gate for block in blocks if hasattr(block.mlp, "gate")]
    hooks = [gate.register_forward_hook(keep) for gate in gates]
    try:
        mtp_logits(oracle, ids)  # which runs the main model first
    finally:
        for hook in hooks:
            hook.remove()
    return found


def gradients(oracle: Oracle) -> dict[str, np.ndarray]:
    """Every gradient under its checkpoint name, the stacked experts taken apart."""
    parameters = dict(oracle.model.named_parameters())
    for name, parameter in oracle.mtp.named_parameters() if oracle.mtp else ():
        if name.startswith("layers."):  # embedding and head are the main model's
            k, rest = name.removeprefix("layers.").split(".", 1)
            rest = rest.removeprefix("mtp_block.").replace("post_norm.", "shared_head.norm.")
            layer = oracle.model.config.num_hidden_layers + int(k)
            parameters[f"model.layers.{layer}.{rest}"] = parameter
    found: dict[str, np.ndarray] = {}
    for name, parameter in parameters.items():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found |= per_expert(name, grad.numpy())
    return found


def per_expert(name: str, stacked: np.ndarray) -> dict[str, np.ndarray]:
    """A stack of experts under the names that each has in a checkpoint; others as they are."""
    if ".mlp.experts." not in name:
        return {name: stacked}
    prefix, kind = name.rsplit(".", 1)
    if kind == "down_proj":  # [E, d, m]
        return {f"{prefix}.{e}.down_proj.weight": array for e, array in enumerate(stacked)}
    width = stacked.shape[1] // 2  # gate_up_proj, [E, 2m, d]: gate first, up second
    gates = {f"{prefix}.{e}.gate_proj.weight": array[:width] for e, array in enumerate(stacked)}
    ups = {f"{prefix}.{e}.up_proj.weight": array[width:] for e, array in enumerate(stacked)}
    return gates | ups


class _Float64Torch(types.ModuleType):
    """torch, in which float32 is float64."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextlib.contextmanager
def lifted_casts() -> Iterator[None]:
    """A float64 model that is built and run inside casts nothing to float32.

    transformers casts RMSNorm, the router, rotary positions and the eager softmax to float32, which
    costs about 1e-7 of the largest logit. Its own code runs all the same: only the name `torch` in
    its modules is exchanged for one whose float32 is float64.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (modeling_deepseek_v3, modeling_llama, modeling_rope_utils):
            patch.setattr(module, "torch", _Float64Torch("torch"))
        yield

"""An FP8 directory means the same numbers to both, where transformers can read it.

Without a GPU it multiplies the scales out on loading, as we do. It takes the blocks' height to be
rows / rows of scales, which is 128 only where every size is at most 128 or a multiple of it.
"""

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from minideepseek.model.config import DeepSeekV3Config
from minideepseek.model.layout import is_quantised
from minideepseek.model.safetensors import load_file, save_file
from minideepseek.model.transformer import DeepSeekV3
from tests.parity import oracle
from tests.parity.oracle import torch, transformers
from tests.parity.pairs import draw_ids, our_logits, our_model, relative

pytestmark = pytest.mark.parity
pytest.importorskip("accelerate", reason="transformers reads FP8 with accelerate only")

# One and two blocks in either direction.
CONFIG = replace(
    DeepSeekV3Config.preset("nano"),
    hidden_size=256,
    intermediate_size=384,
    moe_intermediate_size=128,
    n_routed_experts=8,
    num_nextn_predict_layers=1,
)


def every_code(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of random codes, each of the 254 that are numbers, under scales of no weight's."""
    rng, tensors = np.random.default_rng(4), dict(stored)
    for name, array in stored.items():
        if array.dtype == ml_dtypes.float8_e4m3fn:
            codes = rng.integers(0, 254, array.shape, np.uint8)
            codes += codes >= 0x7F  # 0x7F and 0xFF are the two NaNs
            assert not np.isnan(codes.view(array.dtype).astype(np.float32)).any()
            tensors[name] = codes.view(array.dtype)
        if name.endswith("_scale_inv"):
            tensors[name] = rng.uniform(1e-5, 1e-3, array.shape).astype(np.float32)
    return tensors


@pytest.mark.parametrize("codes", ["those of a model", "all"])
def test_means_the_same_to_both(codes: str, tmp_path: Path) -> None:
    model = our_model(CONFIG, 5)
    model.save_pretrained(tmp_path / "fp8", dtype="float8_e4m3fn")
    file = tmp_path / "fp8" / "model.safetensors"
    stored = {name: array.copy() for name, array in load_file(file).items()}
    if codes == "all":
        stored = every_code(stored)
        save_file(stored, file, {"format": "pt"})
    for name, array in stored.items():
        assert (array.dtype == ml_dtypes.float8_e4m3fn) == is_quantised(name), name
    blocks = {array.shape for name, array in stored.items() if name.endswith("_scale_inv")}
    assert {(1, 1), (3, 2), (2, 3), (1, 2), (2, 1)} <= blocks

    ours = DeepSeekV3.from_pretrained(tmp_path / "fp8")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "fp8",
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
    ).eval()
    assert_same_weights(ours, theirs)
    ids = draw_ids(CONFIG, 5)
    found, expected = our_logits(ours, ids), oracle.logits(oracle.Oracle(theirs, None), ids)
    assert relative(found, expected) < 1e-5
    assert relative(our_logits(model, ids), expected) > 1e-3  # eight bits are not thirty-two


def assert_same_weights(ours: DeepSeekV3, theirs: torch.nn.Module) -> None:
    """Every bit of every parameter and bias of the main model."""
    state, compared = ours.state_dict(), 0
    for name, tensor in [*theirs.named_parameters(), *theirs.named_buffers()]:
        if not name.endswith("inv_freq"):
            for each, array in oracle.per_expert(name, tensor.detach().numpy()).items():
                assert array.dtype == np.float32 and array.tobytes() == state[each].tobytes(), each
                compared += 1
    mtp = f"model.layers.{ours.config.num_hidden_layers}."
    assert compared == sum(not name.startswith(mtp) for name in state)

r"""The ledger of a checkpoint: what its files hold, and whether that is what config.json wants.

Everything here comes from headers (contents.py): 163 files of together 689 GB (`minideepseek info
--preset v3`) are told about in seconds, on a machine that could not load one of their layers.
ledger.py counts from the configuration alone; here the same parts are counted from the tensors, and
both stand side by side.
"""

import math
import os
import re
from collections import Counter
from dataclasses import dataclass, field

from minideepseek.model.contents import Contents, Fault, original_of, read_contents
from minideepseek.model.layout import part_of
from minideepseek.model.ledger import count_parameters

_WIDTH = 80
_SHOWN = 5  # faults of a kind that are spelt out; all are counted
_COPIES, _SCALES, _ROTARY = "copies of embedding and head", "scales of FP8", "rotary frequencies"


@dataclass
class _Faults:
    """All faults counted, the first few of a kind kept."""

    counts: Counter[str] = field(default_factory=Counter)
    first: list[Fault] = field(default_factory=list)
    unexpected: set[str] = field(default_factory=set)

    def add(self, fault: Fault) -> None:
        self.counts[fault.kind] += 1
        if self.counts[fault.kind] <= _SHOWN:
            self.first.append(fault)
        if fault.kind == "unexpected":
            self.unexpected.add(fault.name)


def inspect(directory: str | os.PathLike) -> str:
    """What a checkpoint's directory holds, as text: parameters by part, dtypes, shapes, faults.

    No weight is read. Tensors that are missing, unexpected or not as config.json wants them are
    listed; CheckpointError for files of which not even that can be said (see `read_contents`).
    """
    contents, faults = read_contents(directory), _Faults()
    for fault in contents.faults():
        faults.add(fault)
    known = [name for name in contents.headers if name not in faults.unexpected]
    line = "─" * _WIDTH
    lines = [*_title(contents), line, *_parameters(contents, known), line, *_dtypes(contents)]
    return "\n".join([*lines, line, *_shapes(contents, known), line, *_verdict(contents, faults)])


def _title(contents: Contents) -> list[str]:
    c = contents.config
    files = len({header.path for header in contents.headers.values()})
    return [
        f"{contents.folder}",
        f"{c.num_hidden_layers} layers ({c.first_k_dense_replace} dense, {c.num_moe_layers} MoE) "
        f"of width {c.hidden_size:,}, {c.num_attention_heads} heads, vocabulary {c.vocab_size:,}",
        f"{files:,} {_plural('file', files)}, {c.num_nextn_predict_layers} MTP "
        f"{_plural('module', c.num_nextn_predict_layers)}, {c.n_routed_experts} routed experts "
        f"per MoE layer, {c.num_experts_per_tok} chosen per token",
    ]


def _parameters(contents: Contents, known: list[str]) -> list[str]:
    """Held and wanted numbers by part; what is not a parameter below."""
    held: Counter[str] = Counter()
    for name in known:
        held[_part(contents, name)] += math.prod(contents.info(name).shape)
    wanted = count_parameters(contents.config)
    lines = [_row("parameters", "in the files", "by config.json")]
    lines += [_row(f"  {part}", f"{held[part]:,}", f"{wanted[part]:,}") for part in wanted]
    sums = sum(held[part] for part in wanted), sum(wanted.values())
    lines.append(_row("  together", *(f"{n:,}" for n in sums)))
    others = [part for part in (_COPIES, _SCALES, _ROTARY) if held[part]]
    return lines + [_row(part, f"{held[part]:,}", "") for part in others]


def _part(contents: Contents, name: str) -> str:
    if name.endswith("_scale_inv"):
        return _SCALES
    if name.endswith(".inv_freq"):
        return _ROTARY
    return _COPIES if original_of(name, contents.config) else part_of(name, contents.config)


def _dtypes(contents: Contents) -> list[str]:
    """Tensors, numbers and bytes by stored dtype, those of unexpected tensors too."""
    rows: dict[str, tuple[int, int, int]] = {}
    for name in contents.headers:
        info, code = contents.info(name), contents.dtype(name)
        tensors, numbers, size = rows.get(code, (0, 0, 0))
        rows[code] = tensors + 1, numbers + math.prod(info.shape), size + info.stop - info.start
    lines = [_row("stored as", "tensors", "numbers", "bytes")]
    lines += [_row(f"  {code}", *(f"{n:,}" for n in rows[code])) for code in sorted(rows)]
    together = (f"{sum(column):,}" for column in zip(*rows.values(), strict=True))
    return [*lines, _row("  together", *together)]


def _shapes(contents: Contents, known: list[str]) -> list[str]:
    """One line for tensors that differ in the numbers of layer and expert only."""
    alike: Counter[tuple[str, str, str]] = Counter()
    for name in known:
        shape = " × ".join(map(str, contents.info(name).shape))
        alike[re.sub(r"\.[0-9]+\.", ".*.", name), contents.dtype(name), shape] += 1
    rows = [("tensors", "dtype", "shape", "name")]
    rows += [(f"{n:,}", code, shape, name) for (name, code, shape), n in sorted(alike.items())]
    wide = [max(len(row[i]) for row in rows) for i in range(3)]
    return [f"{n:>{wide[0]}}  {c:{wide[1]}}  {s:{wide[2]}}  {name}" for n, c, s, name in rows]


def _verdict(contents: Contents, faults: _Faults) -> list[str]:
    lines = list(contents.notices)
    for kind in ("missing", "unexpected", "wrong"):
        count = faults.counts[kind]
        if count:
            lines.append(f"{count:,} {kind}:")
            lines += [f"  {fault.text}" for fault in faults.first if fault.kind == kind]
            lines += ["  …"] * (count > _SHOWN)
    if not faults.first:
        lines.append("nothing missing, nothing unexpected, every shape as config.json wants it")
        if any(name.endswith("_scale_inv") for name in contents.headers):
            lines.append("every FP8 weight has its scales, one for each block of 128 × 128")
    return lines


def _row(label: str, *cells: str) -> str:
    """A label, then two or three right-aligned columns."""
    width = 21 if len(cells) < 3 else 19
    left = label.ljust(_WIDTH - width * len(cells))
    return (left + "".join(f"{cell:>{width}}" for cell in cells)).rstrip()


def _plural(word: str, count: int) -> str:
    return word if count == 1 else word + "s"

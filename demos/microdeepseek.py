r"""DeepSeek-V3 in one file: NumPy alone, every derivative by hand, a minute of training.

    python -m demos.microdeepseek [--steps N] [--seed N]

reads the docstrings of Python's standard library byte by byte, learns to continue them, and shows
on the way what it would write. What makes DeepSeek-V3 is here, only small:

    h = Emb(x)                              MLA  keeps of a byte one short latent and a rotated key,
    h ← h + MLA(norm h)  } in each layer         and makes the keys and values of all heads of them
    h ← h + MoE(norm h)  }                  MoE  sends a byte to a few of many small networks; a
    s = norm h                                   bias, not a loss, keeps all of them busy
    P(x_{t+1}) = softmax(Head s_t)          MTP  asks a second question about the same text: which
                                                 byte comes after the next?
    h′ = M [norm Emb(x_{t+1}) ; norm s_t]
    P(x_{t+2}) = softmax(Head norm Layer h′)

How to read it. A @primitive returns a value and `back`, which turns g, the gradient of the loss by
the value, into those by the arguments; its formula stands beside it. Calls are noted on a tape, and
`backward` walks it from the end, adding up where an array was used twice. That is all there is.

Left out: the query's latent, dense first layers, groups of experts, YaRN, V3's small balance loss.
Next, with the theory: minideepseek/autograd/engine.py, layers/mla.py, moe.py, mtp.py. With the same
weights the library has the same loss and gradients: tests/demos/test_microdeepseek.py.
"""
import argparse
import ast
import bz2
import math
import os
import sysconfig
import time
import zlib
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # on a busy machine two are ten times slower
import numpy as np  # noqa: E402

LAYERS, WIDTH, LATENT = 2, 64, 32  # the MTP module has one layer more; the latent is MLA's
HEADS, CONTENT, ROTATED, VALUE = 4, 16, 16, 16  # the last three: widths in a head
EXPERTS, TOP_K, EXPERT_WIDTH, FACTOR = 8, 2, 64, 1.0  # FACTOR multiplies the gates; V3: 2.5
CONTEXT, BATCH, STEPS, WARMUP, RATE = 64, 8, 2400, 40, 4e-3
BETAS, DECAY, CLIP, MTP_WEIGHT, BIAS_STEP = (0.9, 0.95), 0.1, 1.0, 0.3, 0.01  # the last: λ, γ
EPS, THETA, TEMPERATURE, ONE_HOT = 1e-6, 10000.0, 0.7, np.eye(256, dtype=np.float32)

# ---------------------------------------------------- the tape, and the functions that it notes
TAPE = []  # (value, arguments, back) of every call

def primitive(function):
    """function(…) → (value, back) becomes a function that notes the call and returns the value."""
    def noted(*args):
        value, back = function(*args)
        TAPE.append((value, args, back))
        return value
    return noted

def backward(loss):
    """The gradients of the parameters, by id(parameter); the loss ends the tape."""
    grads = {id(loss): 1.0}
    for value, args, back in reversed(TAPE):
        for x, g in zip(args, back(grads.pop(id(value))), strict=False):  # numbers, last, have none
            grads[id(x)] = grads[id(x)] + g if id(x) in grads else g
    return grads

@primitive
def add(x, y):
    return x + y, lambda g: (g, g)

@primitive
def linear(x, W):
    """y = W x.  x (B, T, in), W (out, in) → (B, T, out).     dx = Wᵀ g,  dW = Σ g xᵀ"""
    return x @ W.T, lambda g: (g @ W, np.tensordot(g, x, ((0, 1), (0, 1))))

@primitive
def rms_norm(x, w):
    """y = w x̂,  x̂ = r x,  r = 1/√(mean x² + ε).     dx = r (wg − x̂ mean(wg x̂)),  dw = Σ g x̂"""
    r = 1 / np.sqrt(np.square(x).mean(-1, keepdims=True) + EPS)
    x_hat = r * x
    def back(g):
        wg = w * g
        return r * (wg - x_hat * (wg * x_hat).mean(-1, keepdims=True)), (g * x_hat).sum((0, 1))
    return w * x_hat, back

@primitive
def heads(x):
    """(B, T, H·n) → (B, H, T, n)"""
    y = x.reshape(*x.shape[:2], HEADS, -1).swapaxes(1, 2)
    return y, lambda g: (g.swapaxes(1, 2).reshape(x.shape),)

@primitive
def rope(x, start):
    """At place t a pair (a, b) of x (…, T, d), read as a + ib, turns by the angle t θ^(−2j/d)."""
    t, d = start + np.arange(x.shape[-2])[:, None], x.shape[-1]
    turn = np.exp(1j * t * THETA ** (-np.arange(0, d, 2) / d)).astype(np.result_type(x, "c8"))
    y = (x.view(turn.dtype) * turn).view(x.dtype)
    return y, lambda g: ((g.view(turn.dtype) * turn.conj()).view(x.dtype),)  # g turns back

@primitive
def attention(q, q_r, k, k_r, v):
    """o(t) = Σ_{s≤t} a(t, s) v(s),  a = softmax_s((q·k + q_r·k_r) / √(width of both)).

    q, q_r (B, H, T, ·), for the last T of S places; k, v (B, H, S, ·); k_r (B, S, ·), one for all
    heads; o (B, T, H·m).     Through the softmax: ds = a (da − Σ a da)
    """
    (B, H, T, n), S, k_r = q.shape, k.shape[2], k_r[:, None]
    scale, past = (n + q_r.shape[-1]) ** -0.5, np.tri(T, S, S - T, dtype=bool)
    a = np.where(past, scale * (q @ k.mT + q_r @ k_r.mT), -np.inf)  # (B, H, T, S)
    a = np.exp(a - a.max(-1, keepdims=True))
    a /= a.sum(-1, keepdims=True)
    def back(g):
        g = g.reshape(B, T, H, -1).swapaxes(1, 2)
        da = g @ v.mT
        ds = scale * a * (da - (a * da).sum(-1, keepdims=True))
        return ds @ k, ds @ k_r, ds.mT @ q, (ds.mT @ q_r).sum(1), a.mT @ g
    return (a @ v).swapaxes(1, 2).reshape(B, T, -1), back

@primitive
def route(z, bias):
    """Gates G = FACTOR s / Σ s of the TOP_K largest s + bias, else 0;  s = σ(z).  (V3 §2.1.2)

    z (B, T, E) → (B, T, E + 1): the shared expert comes last, its gate is 1.     ds = (FACTOR g −
    Σ G g) / Σ s.  The bias only chooses: no gradient reaches it, and its place takes the load.
    """
    s, kept = 1 / (1 + np.exp(-z)), np.zeros_like(z)
    np.put_along_axis(kept, np.argsort(-(s + bias), kind="stable")[..., :TOP_K], 1, axis=-1)
    total = (s * kept).sum(-1, keepdims=True)
    gates = FACTOR * s * kept / total
    def back(g):
        g = g[..., :-1]
        ds = kept * (FACTOR * g - (gates * g).sum(-1, keepdims=True)) / total
        return ds * s * (1 - s), kept.sum((0, 1))
    return np.concatenate([gates, np.ones_like(total)], axis=-1), back

@primitive
def experts(x, gates, W_in, W_out):
    """y = Σₑ gateₑ W_out u,  u = a σ(a) b,  [a ; b] = W_in x, each for the bytes with a gate to it.

    x (B, T, d), gates (B, T, E), W_in (E, 2m, d), W_out (E, d, m).
    dgate = du·u,  and then du times the gate:  da = du b (σ + a σ (1 − σ)),  db = du a σ
    """
    y, visits = np.zeros_like(x), []
    for e in range(len(W_in)):
        who = np.nonzero(gates[..., e])
        a, b = np.split(x[who] @ W_in[e].T, 2, axis=-1)
        s, gate = 1 / (1 + np.exp(-a)), gates[who][:, e, None]
        y[who] += gate * (a * s * b) @ W_out[e].T
        visits.append((who, gate, a, b, s))
    def back(g):
        dx, dgates, dW_in, dW_out = map(np.zeros_like, (x, gates, W_in, W_out))
        for e, (who, gate, a, b, s) in enumerate(visits):
            u, du = a * s * b, g[who] @ W_out[e]
            dgates[..., e][who] = (du * u).sum(-1)
            du *= gate
            dab = np.concatenate([du * b * (s + a * s * (1 - s)), du * a * s], axis=-1)
            dW_in[e], dW_out[e] = dab.T @ x[who], g[who].T @ (gate * u)
            dx[who] += dab @ W_in[e]
        return dx, dgates, dW_in, dW_out
    return y, back

@primitive
def join(e, s):
    """[e ; s] for the T places of e (B, T, d); s (B, T + 1, d) has one place more, the last."""
    def back(g):
        return g[..., : e.shape[-1]], np.pad(g[..., e.shape[-1] :], ((0, 0), (0, 1), (0, 0)))
    return np.concatenate([e, s[:, :-1]], axis=-1), back

@primitive
def cross_entropy(z, targets, weight):
    """−weight Σ ln P(target),  P = softmax(z).  z (B, T, V).     dz = weight (P − onehot) g"""
    log_p, hot = z - z.max(-1, keepdims=True), ONE_HOT[targets]
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    return -weight * (hot * log_p).sum(), lambda g: (weight * g * (np.exp(log_p) - hot),)

# --------------------------------------------------------------------------------------- the model
def make_params(rng):
    """{part: {name: array}}. Matrices are drawn from N(0, 1/in), norms are 1, the biases 0."""
    def new(*shape):
        w = rng.normal(0, shape[-1] ** -0.5, shape) if len(shape) > 1 else np.ones(shape)
        return w.astype(np.float32)
    def new_layer():
        return {
            "norm1": new(WIDTH), "norm2": new(WIDTH), "norm_c": new(LATENT),
            "W_Q": new(HEADS * CONTENT, WIDTH), "W_QR": new(HEADS * ROTATED, WIDTH),
            "W_DKV": new(LATENT, WIDTH), "W_KR": new(ROTATED, WIDTH), "router": new(EXPERTS, WIDTH),
            "W_UK": new(HEADS * CONTENT, LATENT), "W_UV": new(HEADS * VALUE, LATENT),
            "W_O": new(WIDTH, HEADS * VALUE), "bias": 0 * new(EXPERTS),
            "experts_in": new(EXPERTS + 1, 2 * EXPERT_WIDTH, WIDTH),  # the last is shared
            "experts_out": new(EXPERTS + 1, WIDTH, EXPERT_WIDTH),
        }
    ends = {"emb": new(WIDTH, 256), "norm": new(WIDTH), "head": new(256, WIDTH)}
    mtp = {"norm_e": new(WIDTH), "norm_s": new(WIDTH), "M": new(WIDTH, 2 * WIDTH)}
    mtp |= {"norm_out": new(WIDTH)} | new_layer()
    return {"ends": ends, "mtp": mtp} | {i: new_layer() for i in range(LAYERS)}

def mla(x, p, cache):
    """Multi-head latent attention, W_… as V2 names them (eq. 9–11, 14–19).  x (B, T, d)"""
    start = cache[2] if cache else 0  # the place of x's first byte
    q, q_r = heads(linear(x, p["W_Q"])), rope(heads(linear(x, p["W_QR"])), start)
    c = rms_norm(linear(x, p["W_DKV"]), p["norm_c"])  # the latent
    k_r = rope(linear(x, p["W_KR"]), start)  # of x and not of c; one key for all heads
    if cache:
        c, k_r = (np.concatenate(both, axis=1) for both in zip(cache, (c, k_r), strict=False))
    cache[:] = c[:, 1 - CONTEXT :], k_r[:, 1 - CONTEXT :], start + x.shape[1]  # all that is kept
    k, v = heads(linear(c, p["W_UK"])), heads(linear(c, p["W_UV"]))
    return linear(attention(q, q_r, k, k_r, v), p["W_O"])

def layer(x, p, cache):
    h = add(x, mla(rms_norm(x, p["norm1"]), p, cache))
    z = rms_norm(h, p["norm2"])
    gates = route(linear(z, p["router"]), p["bias"])
    return add(h, experts(z, gates, p["experts_in"], p["experts_out"]))

def states(ids, params, caches=None):
    """s (B, T, d), from which the next byte is told; ids (B, T) go on where the caches end."""
    TAPE.clear()
    h = linear(ONE_HOT[ids], params["ends"]["emb"])
    for i, cache in enumerate(caches or [[] for _ in range(LAYERS)]):
        h = layer(h, params[i], cache)
    return rms_norm(h, params["ends"]["norm"])

def loss(ids, params):
    """−ln P(x_{t+1}) − λ ln P(x_{t+2}), a mean over the B (N − 1) main questions of ids (B, N)."""
    ends, p, n = params["ends"], params["mtp"], ids[:, 1:].size
    s = states(ids[:, :-1], params)
    main = cross_entropy(linear(s, ends["head"]), ids[:, 1:], 1 / n)
    e = rms_norm(linear(ONE_HOT[ids[:, 1:-1]], ends["emb"]), p["norm_e"])
    h = layer(linear(join(e, rms_norm(s, p["norm_s"])), p["M"]), p, [])
    z = linear(rms_norm(h, p["norm_out"]), ends["head"])
    return add(main, cross_entropy(z, ids[:, 2:], MTP_WEIGHT / n))

# ---------------------------------------------------------------------------------------- learning
def update(params, grads, moments, step, rate):
    """AdamW, by gradients clipped to a norm of CLIP, and the balance of the experts; in place.

    m ← β₁m + (1 − β₁)g,   v ← β₂v + (1 − β₂)g²,   p ← p − η (m̂/(√v̂ + 1e-8) + decay p)
    bias ← bias + γ sign(mean load − load): who got too little is chosen a little more easily
    """
    each = [(name, p, grads[id(p)]) for part in params.values() for name, p in part.items()]
    norm = math.sqrt(sum(np.vdot(g, g) for name, _, g in each if name != "bias"))
    for name, p, g in each:
        if name == "bias":
            p += BIAS_STEP * np.sign(g.mean() - g)
            continue
        g = g * min(1, CLIP / (norm + 1e-6))
        m, v = moments.setdefault(id(p), (np.zeros_like(p), np.zeros_like(p)))
        m += (1 - BETAS[0]) * (g - m)
        v += (1 - BETAS[1]) * (g * g - v)
        m_hat, v_hat = m / (1 - BETAS[0] ** step), v / (1 - BETAS[1] ** step)
        p -= rate * (m_hat / (np.sqrt(v_hat) + 1e-8) + (DECAY if p.ndim > 1 else 0) * p)

def docstrings():
    """A text held out, a twentieth by checksum, and one to learn from; no paragraph twice."""
    root, skip = Path(sysconfig.get_path("stdlib")), {"site-packages", "test", "tests"}
    files = (f for f in root.rglob("*.py") if not skip & set(f.relative_to(root).parts))
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_bytes())))
    kinds, seen, sides = ast.Module | ast.ClassDef | ast.FunctionDef, set(), ([], [])
    texts = {(ast.get_docstring(n) or "").encode() for n in nodes if isinstance(n, kinds)}
    for i, text in enumerate(sorted(sorted(texts), key=zlib.crc32)):
        new = [part for part in text.split(b"\n\n") if part not in seen]
        seen.update(new)
        sides[20 * i >= len(texts)].append(b"\n\n".join(new))
    return [np.frombuffer(b"\n\n\n".join(filter(None, side)), np.uint8) for side in sides]

def bits_per_byte(params, text):
    """Mean of −log₂ P of every byte but the first, each with up to CONTEXT bytes before it."""
    windows, nats = np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1)[::CONTEXT], 0.0
    for ids in np.array_split(windows, len(windows) // 32 + 1):
        z = linear(states(ids[:, :-1], params), params["ends"]["head"])
        nats += cross_entropy(z, ids[:, 1:], 1.0)
    return nats / windows[:, 1:].size / math.log(2)

def sample(params, prompt, count, rng):
    """The prompt and count bytes more. Every byte is read once, then the caches remember it."""
    text, new, caches = bytearray(prompt), list(prompt), [[] for _ in range(LAYERS)]
    for _ in range(count):
        z = params["ends"]["head"] @ states(np.array([new]), params, caches)[0, -1]
        new = [int((z / TEMPERATURE + rng.gumbel(size=256)).argmax())]  # a draw from the softmax
        text += bytes(new)
    return "".join(chr(byte) if 32 <= byte < 127 or byte == 10 else "·" for byte in text)

def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    steps, seed = vars(parser.parse_args(argv)).values()
    began, rng, (held_out, text) = time.perf_counter(), np.random.default_rng(seed), docstrings()
    params, moments, packed = make_params(rng), {}, 8 * len(bz2.compress(held_out)) / len(held_out)
    size = sum(p.size for part in params.values() for p in part.values())
    print(f"{size:,} parameters, {len(text):,} bytes to learn from, {len(held_out):,} held out")
    for step in range(steps + 1):
        if step in (0, steps // 16, steps // 4, steps):
            bits, seconds = bits_per_byte(params, held_out), time.perf_counter() - began
            print(f"\n{step} steps, {seconds:.0f} s, {bits:.2f} bits a byte (bz2 {packed:.2f})")
            print("    | " + sample(params, b"Return ", 240, rng).replace("\n", "\n    | "))
        if step < steps:
            places = rng.integers(len(text) - CONTEXT, size=(BATCH, 1)) + np.arange(CONTEXT + 1)
            rate = RATE * min((step + 1) / WARMUP, 0.55 + 0.45 * math.cos(math.pi * step / steps))
            update(params, backward(loss(text[places], params)), moments, step + 1, rate)

if __name__ == "__main__":
    main()

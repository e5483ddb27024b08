"""Part 0 · The engine: what differentiates everything that follows.

Read in this order:

    backend      numpy or cupy, and the few things that differ; blocks and threads
    engine       a primitive is a value and its vjp; the rules it keeps; checkpoint
    tape         nodes in the order of creation, and the walk back over them
    tensor       an array and its place on the tape; Parameters
    debug        what MINIDEEPSEEK_DEBUG=1 checks
    primitives   the elementary ones: + × @ exp sum reshape take …
    kernels      CUDA for the few formulas that are worth it on a GPU
    products     matrix products by blocks, for the threads to share
    fused        linear, rms_norm, swiglu, rope, cross-entropy in one walk over memory
    attention    causal attention that never holds a T × S matrix
    experts      the routed experts' product on tokens sorted by expert
    reference    the fused ones composed of elementary ones: their plain definitions
    differences  a derivative from values alone, with steps that find their own scale
    gradcheck    is my gradient right? a random direction, a random cotangent, and a diagnosis
"""

# Importing them fills the registry of primitives.
from minideepseek.autograd import attention, experts, fused, primitives  # noqa: F401

r"""Kernels: the few places where array functions are not enough on a GPU.

An array function reads its operands from memory and writes its result back, and the host needs 5
to 15 µs to ask for it. A kernel of our own does a whole formula in one reading and one writing, for
one such request. It is also forty lines of C++ that somebody has to understand, so each one here
has a count for its reason. A training step of the `small` preset over 4 × 128 tokens asks for 3,840
launches (27,665 in FP8), counted over the tests' stand-in for CuPy by tests/kernels/test_counts.py:

                                         launches      with its kernel
    optimise     AdamW                        780      1      chosen
    rotation     RoPE                         216     16     chosen
    activation   SwiGLU                        72      8      chosen for the experts, rules.py
    rules        routed experts             1,767      366    chosen
    norm         RMSNorm                      374      51     chosen
    gather       results of the experts        54      6      chosen for its bytes: 20 arrays to 5
    (layers/fp8/kernels.py)
                 tiles quantised           22,023      790    chosen, of the step in FP8
                 tiles decoded              1,610      518    chosen, of the step in FP8
    left out     clipping                     128      2      3.3 %, and its sums are BLAS's
                 softmax of attention          16      4      of attention's 156
                 cross-entropy                 24      3      0.6 %
                 expert gather (x[token])      96      96     is one launch already
                 embedding's gradient           3      3      is one launch already

With all of them the step asks for 1,073 launches, and in FP8 for 3,926. What is left out is less
than 4 % of a step's launches.

**None of this has run on a card.** What is known without one: the texts compile for sm_90 without a
warning, and executed on the CPU they give what NumPy gives (tests/kernels). What is not known: how
long they take. So they are off; MINIDEEPSEEK_KERNELS=1, read at import, or `set_kernels(True)`
switches them on for arrays on a GPU. NumPy's arrays never meet them.

Each file holds the formula in NumPy, the same formula in CUDA below it, and what launches it:

    launch        what a kernel is; how it is launched; when one is chosen
    norm          a warp owns a row
    activation    rows that lie apart
    rotation      pairs of channels
    gather        sums without atomics
    optimise      many arrays, one launch
    rules         the primitives made of these
"""

from minideepseek.autograd.kernels.gather import gather_sum
from minideepseek.autograd.kernels.launch import set_kernels, wanted
from minideepseek.autograd.kernels.optimise import adamw

__all__ = ["adamw", "gather_sum", "set_kernels", "wanted"]

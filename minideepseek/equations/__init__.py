"""The ledger of equations: each one of the papers that the library computes, and where.

    minideepseek eq            all of them
    minideepseek eq V3         those of one paper
    minideepseek eq V2:9       one: the equation, a transcription, the library's line, the test

An id is the paper's short name and the equation's number, V2:9 or MATH:4; what a paper says
without a number has a name and its section. One entry may have several ids: V3's equations of
latent attention are V2's once more.

    V2     DeepSeek-V2                     R1      DeepSeek-R1, first version
    V3     DeepSeek-V3                     ROPE    RoFormer (Su et al.)
    MOE    DeepSeekMoE                     NORM    RMSNorm (Zhang & Sennrich)
    LFB    Loss-Free Balancing             GLU     SwiGLU (Shazeer)
    MATH   DeepSeekMath                    ADAMW   AdamW (Loshchilov & Hutter)
    SPEC   Speculative decoding            CODEX   pass@k (Chen et al.)

A transcription says in at most five lines of Python what the equation says, in its letters, one
token and one head at a time, counted from 0. It is no second implementation but a reading aid
that cannot drift: tests/equations holds each against the library, and each library line named
here is looked up when it is shown.

    notation       LaTeX of a small kind → MathML for the book, Unicode for the terminal
    ledger         what an entry is; the papers; finding one
    foundations    norm, SwiGLU, rotary positions and YaRN, AdamW
    attention      multi-head and multi-head latent attention
    experts        mixtures of experts and their balance
    prediction     multi-token prediction, speculative decoding, FP8
    objectives     PPO, GRPO, pass@k
    page           what a terminal shows
"""

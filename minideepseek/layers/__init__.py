"""Part I · The layers, a chapter each.

    module       parameters, modules, Linear, RMSNorm, the SwiGLU MLP; names are checkpoint names
    rope         rotary positions and YaRN
    cache        what a layer remembers of the tokens it has seen
    attention    Chapter 1: multi-head, multi-query and grouped-query attention
    mla          Chapter 2: multi-head latent attention, naive and absorbed, decoupled RoPE
    standard_moe Chapter 3 begins: a few large experts and the loss that balances them
    moe          Chapter 3: DeepSeekMoE, routing and balance without an auxiliary loss
    decoder      one decoder layer: attention, then MLP or experts
    mtp          Chapter 4a: multi-token prediction
    fp8          Chapter 4b: eight bits a number, and a scale for every tile
"""

"""Part II · The language model: what a DeepSeek-V3 is, on disk and in memory, and how it writes.

    config       the architecture under Hugging Face's names, presets; config_checks refuses
    layout       the name and shape of every tensor of a configuration
    ledger       parameters, FLOPs and cache bytes, from shapes alone
    tokenizer    bytes and a few special tokens
    transformer  embedding, layers, head, and the loss with its three parts
    generate     sampling with the latent cache
    speculative  MTP modules draft (drafter), the model verifies: the same text with fewer passes
    files        files and directories that are the old ones or the new ones, whatever happens
    safetensors  the file format, read strictly
    checkpoint   Hugging Face directories, both ways; contents and inspect look without loading
"""

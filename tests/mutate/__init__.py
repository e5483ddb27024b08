r"""Mutants: is there a test that would notice?

`python -m tests.mutate` plants one small mistake at a time in the engine, the layers, FP8,
generation, the optimiser and GRPO, and runs the default suite's tests that execute the line. A
mutant is *killed* if one of them fails, and *survives* if all of them pass: then either a property
is missing, or the change changes nothing that anyone could see, which equivalent.toml lists, each
with its reason.

The mutator is our own: mutmut and cosmic-ray, which are well kept, know neither a sum over a
broadcast axis, nor keepdims, nor a dropped transpose, nor a mask, and start the whole suite anew
for every mutant or write mutants into the tree.

    operators.py    what can go wrong with a piece of syntax (syntax.py: small questions about it)
    sites.py        where: the files, every site in them, and the selection of a full run
    covering.py     which test executes which line, and for how long
    children.py     work in forked children, which take their limits and their module along
    planted.py      the mutant in place of the module, in processes that a test starts too
    runner.py       one mutant's tests, the likeliest first, and its verdict
    results.py      verdicts in a file, reused while neither source nor tests changed; the table
    equivalent.py   survivors that no test can kill, and why: equivalent.toml

Nothing is written into the tree. Verdicts are
deterministic, since the tests draw the same examples every time, and limits are in CPU seconds.
Needs a system that can fork.
"""

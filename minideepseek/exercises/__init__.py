"""Part V · Learn by doing: write each backward yourself, and be told what is wrong.

    minideepseek exercises start      copies the exercises into a folder of your own
    minideepseek exercises check      judges the next one; `check NAME` another
    minideepseek exercises hint NAME  three hints, one more at each call
    minideepseek exercises list       what is solved, and what comes next

An exercise is one file of `problems/`. Its upper part is what you get: the theory, a function that
the library has too, and one hole, `raise NotImplementedError`. Two kinds of holes:

    a vjp        the forward is complete; gradients are held against finite differences
    a function   held against its property: no future seen, a cache that changes nothing, …

What stands below the line "not copied" is the checker's: how it is checked, three hints, and
mistakes that are easily made, each with the sentence that must meet it (the tests plant them). The
solution is the library's own definition; nothing here repeats it.

    exercise     what an exercise consists of, and one line of a report
    gradients    checks of a vjp: each argument, then broadcasting, then float32, then memory
    properties   checks of a function, and how arrays that should be equal differ
    catalogue    the exercises in their order, and the learner's part of each
    examine      runs a learner's file in a process of its own, with a time limit
    folder       the learner's folder: files that are never overwritten, progress
    page         what all this looks like in a terminal
    bugs         the bug zoo: functions that look right and are wrong (`minideepseek zoo list`)
"""

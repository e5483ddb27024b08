r"""A held-out set that is not held out  ★★★  25 minutes

A model is judged by text that it has not been trained on. But documentation, web pages and papers
copy themselves: what was held out stands in the training part once more, with other line breaks, in
capitals, without its comma. A loss on it says that the model remembers. So what is held out is
removed from the rest, a paragraph at a time, and so is what the rest says twice.

A copy is found by its shingles. A paragraph becomes its words in lower case,

    re.findall(r"\w+", paragraph.casefold())

and its shingles are all runs of five neighbouring words: n words have n − 4. A paragraph of fewer
than five words is one shingle, all of it. (Counted exactly; at billions of documents one samples
them, MinHash.) With `seen`, the shingles of all that was kept so far:

    drop a paragraph   when at least half of its shingles are in `seen`
    keep it            else, and put its shingles into `seen`

What was dropped is not put in: half of it may have been its own, and must not take others with it.
Shingles inside one paragraph are counted as often as they stand there, and are compared with what
came before the paragraph.

The order is the point: held-out documents first, then the training part, with one `seen` for both.
Then the text that judges depends on no training text, and no paragraph of it is left in the latter.
"""

import re
from dataclasses import replace


def paragraphs(text):
    """The paragraphs of a text, which blank lines divide."""
    return [part.rstrip() for part in re.split(r"\n\s*\n", text.strip("\n")) if part.strip()]


def decontaminate(documents, seen):
    r"""(kept, removed): the documents without paragraphs seen before, and the paragraphs dropped.

    documents: each has a .text; replace(document, text=…) makes the one with another text, its
    paragraphs joined by blank lines, "\n\n". A document of which nothing is left is dropped.
    seen: a set, yours to fill; empty at first, and the same in the next call.
    """
    raise NotImplementedError("return kept, removed: two lists")


# ------------------------------------------------------------------------------------- not copied

from minideepseek.exercises.exercise import Exercise, Mistake
from minideepseek.exercises.gradients import described
from minideepseek.exercises.properties import properties
from minideepseek.training import corpus


def _words(first, last):
    """w1 w2 … : a paragraph of words that stand nowhere else."""
    return " ".join(f"w{i}" for i in range(first, last + 1))


def _left(*calls):
    """The property that after these calls, (texts, what is left of each), this is kept."""

    def holds(decontaminate):
        seen: set = set()
        for texts, want in calls:
            documents = [corpus.Document(f"document {i}", text) for i, text in enumerate(texts)]
            found = decontaminate(list(documents), seen)
            if not isinstance(found, tuple) or len(found) != 2:
                return f"it returned {described(found)}, expected kept, removed"
            kept, removed = found
            if not isinstance(kept, list) or not isinstance(removed, list):
                return f"it returned {described(found)}, expected two lists"
            if not all(isinstance(document, corpus.Document) for document in kept):
                return f"kept is {described(kept)}, expected documents"
            if not all(isinstance(paragraph, str) for paragraph in removed):
                return f"removed is {described(removed)}, expected paragraphs, strings"
            left = [corpus.Document(f"document {i}", t) for i, t in enumerate(want) if t]
            if said := _differ(kept, left, documents):
                return said
            gone = [p for text in texts for p in paragraphs(text)]
            for document in left:
                for p in paragraphs(document.text):
                    gone.remove(p)
            if sorted(removed) != sorted(gone):
                return f"removed holds {len(removed)} paragraphs, want the {len(gone)} dropped"
        return ""

    return holds


def _differ(kept, want, documents):
    """The first document of which too much or too little is left."""
    texts, mine = ({d.name: d.text for d in found} for found in (want, kept))
    for document in documents:
        got, right = mine.get(document.name), texts.get(document.name)
        if got == right:
            continue
        if right is None:
            return f"{_short(document.text)} is still there, a copy of what came before"
        if got is None:
            return f"{_short(document.text)} was dropped, want {_short(right)} kept"
        return f"of {_short(document.text)} there is left {_short(got)}, want {_short(right)}"
    return "" if kept == want else "the documents are not in their order"


def _short(text):
    text = text.replace("\n", "⏎")
    return f"{text!r}" if len(text) <= 34 else f"'{text[:20].rstrip()} … {text[-12:].lstrip()}'"


_TEXT = "The quick brown fox jumps over the lazy dog, twice a day."
_AGAIN = "THE QUICK, brown fox\nJUMPS over the LAZY dog twice\nA day"
_OTHER = "Day a twice dog lazy the over jumps fox brown quick the"
_A, _B, _C = _words(1, 20), _words(31, 50), _words(61, 80)
_HALF = _words(1, 12) + " " + _words(91, 98)  # 16 shingles, 8 of them A's
_LESS = _words(1, 11) + " " + _words(91, 99)  # 16 shingles, 7 of them A's


def _wrong(words="re.findall(r'\\w+', p.casefold())", length="5", drop="2 * hits >= len(new)",
           dropped="removed.append(p)", kept="rest.append(p)\n            seen.update(new)",
           pieces="paragraphs(document.text)"):  # fmt: skip
    return (
        f"kept, removed = [], []\nfor document in documents:\n    rest = []\n"
        f"    for p in {pieces}:\n        words, n = {words}, {length}\n"
        f"        new = [' '.join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))]\n"
        f"        hits = sum(s in seen for s in new)\n"
        f"        if {drop}:\n            {dropped}\n        else:\n            {kept}\n"
        f"    if rest:\n        kept.append(replace(document, text='\\n\\n'.join(rest)))\n"
        f"return kept, removed"
    )


EXERCISE = Exercise(
    solutions=(corpus.remove_duplicates, corpus.shingles),
    checker=properties({
        "an exact copy": _left(([_A, _B], [_A, _B]), ([_B, _C], ["", _C])),
        "another dress": _left(([_TEXT], [_TEXT]), ([_AGAIN], [""])),
        "the same words": _left(([_TEXT], [_TEXT]), ([_OTHER], [_OTHER])),
        "among others": _left(([_A], [_A]), ([f"{_B}\n\n{_A}\n\n{_C}"], [f"{_B}\n\n{_C}"])),
        "half of it": _left(([_A], [_A]), ([_HALF], [""])),
        "less than half": _left(([_A], [_A]), ([_LESS], [_LESS])),
        "short ones": _left(([f"Example:\n\n{_A}"], [f"Example:\n\n{_A}"]),
                            ([f"example\n\n{_B}"], [_B])),
        "within one part": _left(([_A, _B, _A], [_A, _B, ""])),
        "what was dropped": _left(([_A], [_A]), ([_HALF, _words(90, 98)], ["", _words(90, 98)])),
        "a word five times": _left((["no no no no no no no no"], ["no no no no no no no no"])),
    }),
    hints=(
        "Two loops, over documents and over their paragraphs. For each paragraph make the list\n"
        "of its shingles, count how many are in `seen`, decide, and only then add.",
        'shingles: " ".join(words[i : i + 5]) for i = 0 … max(0, n − 5);\n'
        "drop if 2 · (number in seen) ≥ number of shingles",
        "words = re.findall(r\"\\w+\", paragraph.casefold())",
    ),
    mistakes=(
        Mistake(
            "kept = [d for d in documents if d.text not in seen]\n"
            "removed = [d.text for d in documents if d.text in seen]\n"
            "seen.update(d.text for d in documents)\nreturn kept, removed",
            "another dress", "is still there, a copy of what came before",
        ),
        Mistake(_wrong(words="p.split()"), "another dress", "is still there"),
        Mistake(_wrong(words="re.findall(r'\\w+', p)"), "another dress", "is still there"),
        Mistake(_wrong(length="1"), "the same words", "was dropped"),
        Mistake(_wrong(pieces="[document.text]"), "among others", "there is left"),
        Mistake(_wrong(drop="2 * hits > len(new)"), "half of it", "is still there"),
        Mistake(_wrong(drop="hits"), "less than half", "was dropped"),
        Mistake(_wrong(drop="len(words) >= n and 2 * hits >= len(new)"), "short ones",
                "of 'example⏎⏎w31 w32 w33 … w48 w49 w50' there is left"),
        Mistake(_wrong(kept="rest.append(p)"), "an exact copy", "is still there"),
        Mistake(_wrong(dropped="removed.append(p)\n            seen.update(new)"),
                "what was dropped", "was dropped, want"),
        Mistake(_wrong(dropped="pass"), "an exact copy", "removed holds 0 paragraphs, want the 1"),
        Mistake(
            _wrong(drop="seen.update(new) or 2 * sum(s in seen for s in new) >= len(new)"),
            "an exact copy", "was dropped, want",
        ),
    ),
)  # fmt: skip

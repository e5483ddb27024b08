r"""The papers' claims, each beside what was measured here: reproduced, open, or contradicted.

    python -m demos.claims [--write]

prints the ledger as Markdown; --write writes it to demos/CLAIMS.md as well. Nothing is run: every
row names the command that prints its figures, and `python -m tests.replay` holds them to that.

Where a claim is a difference between two ways of training, both were run with the same seeds, and
the differences, seed by seed, stand in the row, positive where the claim holds.
They decide the verdict by the 95 % interval of their mean (Student's t):

    reproduced                       the interval lies above 0
    not resolvable at this scale     it holds 0: neither claim nor counter-claim is shown
    contradicted at this scale       it lies below 0

Three seeds make wide intervals: t is 4.3, and a difference has to be two and a half of its standard
deviations over seeds to count. Other claims are judged by what they assert: a count, an expectation
that can be summed, a band. Models of a hundred thousand to three million parameters contradict no
one's results at a thousand times the size; they show what a reader can see for himself, and what
he cannot.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demos import claims_models as models
from demos import claims_reasoning as reasoning
from demos.claims_models import CONTRADICTED, OPEN, REPRODUCED, Claim
from demos.fp8_lab import Interval, interval
from minideepseek.model.files import atomic_write

CLAIMS: tuple[Claim, ...] = (
    *models.ATTENTION, *models.EXPERTS, *models.PREDICTION, *models.PRECISION,
    *reasoning.REASONING, *reasoning.OBJECTIVE,
)  # fmt: skip
VERDICTS = (REPRODUCED, OPEN, CONTRADICTED)
FILE = Path(__file__).with_name("CLAIMS.md")
HEAD = """# The papers' claims, tested here

Written by `python -m demos.claims --write`; its docstring says how verdicts are reached. V2, V3 and
R1 are DeepSeek's reports (arXiv 2405.04434, 2412.19437, 2501.12948).
"""
COLUMNS = ("claim", "source", "tested here", "result", "verdict", "command")


@dataclass(frozen=True)
class Judged:
    """A claim and, where seeds decide, their interval."""

    claim: Claim
    gap: Interval | None

    @property
    def verdict(self) -> str:
        """By the rule of this file's docstring; without seeds the claim's own."""
        if self.gap is None:
            return self.claim.verdict
        if self.gap.mean - self.gap.half > 0:
            return REPRODUCED
        return CONTRADICTED if self.gap.mean + self.gap.half < 0 else OPEN

    @property
    def result(self) -> str:
        """The figures; then the differences and the interval."""
        claim, gap = self.claim, self.gap
        if gap is None:
            return claim.result
        digits = claim.digits
        by_seed = ", ".join(f"{x:+.{digits}f}" for x in claim.seeds)
        low, high = (f"{gap.mean + sign * gap.half:+.{digits}f}" for sign in (-1, 1))
        return (
            f"{claim.result}; by seed {by_seed} {claim.unit}: {gap.mean:+.{digits}f}, "
            f"95 % interval {low} to {high}"
        )


def judged(claim: Claim) -> Judged:
    return Judged(claim, interval(claim.seeds) if claim.seeds else None)


def markdown(claims: Sequence[Claim] = CLAIMS) -> str:
    """The ledger: counts of verdicts, then a table."""
    found = [judged(claim) for claim in claims]
    counts = Counter(one.verdict for one in found)
    facts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    lines = [HEAD, f"{len(found)} claims: {facts}.\n", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
    for one in found:
        c = one.claim
        lines.append(_row([c.says, c.source, c.tested, one.result, one.verdict, f"`{c.command}`"]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write demos/CLAIMS.md")
    options = parser.parse_args(arguments)
    text = markdown()
    print(text, end="")
    if options.write:
        with atomic_write(FILE, "w") as file:
            file.write(text)


if __name__ == "__main__":
    main()

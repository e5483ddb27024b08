r"""The report of the reasoning part: what the model could before, what after, and how it got there.

The page, its figures and its rules are those of `training/report.py`: a section is a function that
returns HTML, or "" where there is nothing to show. Here it is a function of a `ReasoningRecord`;
`sections(record)` binds the record to each, so that both parts of a journey, or one of them alone,
are one page:

    write_journey("report.html", title, language=run_record, reasoning=reasoning_record)

Shares are drawn and written in per cent. An accuracy has the standard error of `evaluate.py`.
Lengths are tokens of the response, the end token included. A reward is the weighted sum that
`tasks.score` gives; its parts are drawn unweighted.

>>> found = {"cold start": {"accuracy": 0.34}, "grpo": {"accuracy": 0.91}}
>>> text = verdict(ReasoningRecord(evaluations=found))
>>> "solves <strong>91.0\xa0%</strong>" in text, "solved 34.0\xa0%" in text
(True, True)
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minideepseek.errors import InputError
from minideepseek.reasoning import curves
from minideepseek.reasoning.record import (
    AFTER,
    BEFORE,
    CONTROL,
    ReasoningRecord,
    decimal,
    percent,
)
from minideepseek.training import report as language_report
from minideepseek.training.page import cell, show_text
from minideepseek.training.report import RunRecord, Section, paragraph, write_report
from minideepseek.training.scales import number, short

MEASURES = {
    "greedy": "greedy",
    "majority": "majority vote",
    "format": "well-formed",
    "thinks": "with a think block",
    "truncated": "cut off by the limit",
}
STATISTICS = {  # of `countdown_statistics.py`, all but the first a share
    "attempts": "attempts an answer",
    "repeats": "attempts made before",
    "given": "attempts with given numbers",
    "sums": "attempts with a true sum",
    "verdicts": "attempts with a true mark",
    "hits": "attempts that hit",
    "given_up": "answers that give up",
}
ATTEMPT = re.compile(r"(?<!\S)\S+ [-+] \S+ = \S+ [!?](?!\S)")  # of a Countdown thought


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of HTML; the first cell of a row is its heading."""
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    lines = [f"<tr><td></td>{names}</tr>"]
    for first, *rest in rows:
        cells = "".join(f"<td>{text}</td>" for text in rest)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return f"<table>{''.join(lines)}</table>"


def verdict(record: ReasoningRecord) -> str:
    """One paragraph: accuracy before and after, greedy, length, the control, failed gates."""
    before, after, control = (record.found(n, "accuracy") for n in (BEFORE, AFTER, CONTROL))
    text = ""
    if math.isfinite(after):
        text = (
            "Of problems it was never trained on, the reasoning model solves "
            f"<strong>{percent(after)}</strong> when it samples{_temperature(record, AFTER)}"
        )
        text += f"; before GRPO it solved {percent(before)}." if math.isfinite(before) else "."
        was, now = (record.found(name, "greedy") for name in (BEFORE, AFTER))
        if math.isfinite(was) and math.isfinite(now):
            text += f" Decoded greedily it solves {percent(now)}, before {percent(was)}."
        was, now = (record.found(name, "length") for name in (BEFORE, AFTER))
        if math.isfinite(was) and math.isfinite(now):
            text += f" Its answers went from {was:,.1f} to {now:,.1f} tokens."
        if math.isfinite(control):
            text += f" As many supervised steps in place of GRPO reach {percent(control)}."
    elif math.isfinite(before):
        text = (
            f"After the cold start the reasoning model solves <strong>{percent(before)}</strong> "
            f"of problems it was never trained on, sampled{_temperature(record, BEFORE)}."
        )
    failed = [show_text(name) for name, _, _, passed in record.gates if not passed]
    if failed:
        text += f" <strong>Gates that failed: {'; '.join(failed)}.</strong>"
    return f'<p class="lead">{text}</p>' if text else ""


def _temperature(record: ReasoningRecord, evaluation: str) -> str:
    value = record.found(evaluation, "temperature")
    return "" if math.isnan(value) else f" at temperature {short(value)}"


def evaluations(record: ReasoningRecord) -> str:
    """A column for each evaluation, a row for each measure."""
    found = list(record.evaluations.values())
    if not found:
        return ""
    rows = [_row("solved, sampled", found, "accuracy")]
    rows.append(_row("± standard error", found, "standard_error"))
    passes = [{int(k): number(v) for k, v in (e.get("pass_at") or {}).items()} for e in found]
    for k in sorted({k for shares in passes for k in shares if k > 1}):
        name = f"at least one of {k} solved (pass@{k})"
        rows.append([name, *(percent(shares.get(k, math.nan)) for shares in passes)])
    rows += [_row(name, found, key) for key, name in MEASURES.items()]
    rows.append(_row("tokens an answer", found, "length", decimal))
    statistics = [e.get("statistics") or {} for e in found]
    for key, name in STATISTICS.items():
        if any(key in one for one in statistics):
            rows.append(_row(name, statistics, key, decimal if key == "attempts" else percent))
    for key in ("temperature", "problems", "samples"):
        rows.append([key, *(cell(e.get(key)) for e in found)])
    text = (
        "Problems that no stage was trained on. All rows but the greedy one are of the sampled "
        "answers. The error is that of a mean over problems. A vote is among the samples of a "
        "problem, and giving up is an answer."
    )
    names = [show_text(name.replace("grpo", "GRPO")) for name in record.evaluations]
    return f"<h2>Before and after</h2>{paragraph(text)}{table(names, rows)}"


def _row(
    name: str,
    found: Sequence[Mapping[str, Any]],
    key: str,
    show: Callable[[float], str] = percent,
) -> list[str]:
    return [name, *(show(number(one.get(key))) for one in found)]


def control(record: ReasoningRecord) -> str:
    """What as many further supervised steps come to."""
    before, after, reached = (record.found(n, "accuracy") for n in (BEFORE, AFTER, CONTROL))
    if math.isnan(reached):
        return ""
    count = len(record.run("control").metrics)
    text = (
        f"The same cold start went on with {f'{count:,} ' if count else ''}supervised steps in "
        f"place of GRPO. It solves {percent(reached)}; the cold start solved {percent(before)}, "
        f"GRPO reaches {percent(after)}. Imitation leads as far as its demonstrator; a reward has "
        "no such end."
    )
    return "<h2>The control</h2>" + paragraph(text)


def traces(record: ReasoningRecord) -> str:
    """The same prompt's answers side by side; each attempt is kept on one line."""
    blocks = []
    for prompt in dict.fromkeys(prompt for _, prompt, _ in record.traces):
        answers = "".join(
            f'<figure class="sample"><figcaption>{show_text(when)}</figcaption><pre>'
            f'<span class="prompt">{show_text(prompt)}</span> '
            f'<span class="new">{_thought(text)}</span></pre></figure>'
            for when, asked, text in record.traces
            if asked == prompt
        )
        blocks.append(f'<div class="three thoughts">{answers}</div>')
    text = (
        "Unedited. Shaded: the problem. Then its thinking: each attempt with its own mark, ! where "
        "it takes it for a hit and ? where not; behind &lt;/think&gt; the answer."
    )
    head = f"<h2>The same problem, then and now</h2>{paragraph(text)}"
    return head + "".join(blocks) if blocks else ""


def _thought(text: str) -> str:
    """Escaped; attempts in spans that do not break, their marks in bold. No character is lost."""
    parts, end = [], 0
    for match in ATTEMPT.finditer(text):
        body, mark = match[0][:-1], match[0][-1]
        kind = "hit" if mark == "!" else "miss"
        parts.append(show_text(text[end : match.start()]))
        parts.append(f'<span class="try">{show_text(body)}<b class="{kind}">{mark}</b></span>')
        end = match.end()
    return "".join(parts) + show_text(text[end:])


def gates(record: ReasoningRecord) -> str:
    """What each stage had to reach before the next one began."""
    rows = [
        (show_text(name), cell(measured), cell(wanted), "yes" if passed else "<strong>no</strong>")
        for name, measured, wanted, passed in record.gates
    ]
    text = "A stage that misses its gate stops the run: what follows could not succeed."
    head = ("measured", "wanted", "passed")
    return f"<h2>Gates</h2>{paragraph(text)}{table(head, rows)}" if rows else ""


def two_columns(title: str, facts: Mapping[str, Any]) -> str:
    """A section of names and values."""
    rows = "".join(
        f'<tr><th scope="row">{show_text(name)}</th><td>{cell(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f'<h2>{title}</h2><table class="facts">{rows}</table>' if rows else ""


def recipe(record: ReasoningRecord) -> str:
    """The fixed numbers of every stage."""
    return two_columns("The recipe", record.recipe)


def facts(record: ReasoningRecord) -> str:
    """What was run, where."""
    return two_columns("The run", record.facts)


# ------------------------------------------------------------------------------ the page
SECTIONS = (
    verdict,
    evaluations,
    curves.accuracy,
    curves.length,
    traces,
    curves.reward,
    control,
    curves.drift,
    curves.signal,
    curves.pace,
    curves.balance,
    curves.losses,
    gates,
    recipe,
    facts,
)


def sections(record: ReasoningRecord) -> list[Section]:
    """The reasoning part as sections for `training.report.write_report`, whatever its record."""

    def bound(section: Callable[[ReasoningRecord], str]) -> Section:
        return lambda _: section(record)

    return [bound(section) for section in SECTIONS]


def write_journey(
    path: str | os.PathLike[str],
    title: str,
    language: RunRecord | None = None,
    reasoning: ReasoningRecord | None = None,
) -> Path:
    """Write one page about both parts, or about the one that is given; its path.

    With both, their verdicts come first. InputError without any; CheckpointError where the system
    refuses, and what was at `path` is then untouched.
    """
    if language is None and reasoning is None:
        raise InputError("language, reasoning: got neither, expected at least one record")
    one = list(language_report.SECTIONS) if language else []
    two = sections(reasoning) if reasoning else []
    if one and two:
        one = [one[0], two[0], _part("Part 1: it learns to read"), *one[1:]]
        two = [_part("Part 2: it learns to reason"), *two[1:]]
    return write_report(path, replace(language or RunRecord(""), title=title), [*one, *two])


def _part(title: str) -> Section:
    return lambda _: f'<h2 class="part">{title}</h2>'

"""Sentences and badges that state what the intervals of a comparison show, and no more than that."""

import math
from collections.abc import Sequence

from experiments.evidence.comparison import FAILED_BELOW, ArmLine, Comparison
from experiments.evidence.model import Badge
from rewards.lookup import refuse_other_kind
from rewards.wording import counted
from rl.analysis.controls import OTHER_ATTEMPT, OTHER_ERROR, OTHERS_FIRST, WITHOUT_FIRST
from rl.analysis.errors import HARDLY
from rl.analysis.printing import fixed, percent
from rl.analysis.rates import named
from rl.analysis.significance import holm
from rl.analysis.statistics import Interval

UNSEEN_FROM = 0.02
"""Errors of kinds that were rare in training are reported if the lower end of their share's interval exceeds this."""
ENOUGH_SEEDS = 5
"""With fewer seeds, a bootstrap over seeds says little about seeds that were not run."""


def points(interval: Interval, signed: bool = True) -> str:
    """Mean and interval in percentage points, such as ``+57.3 [+53.1, +60.9]``."""
    mean, low, high = (percent(value, signed=signed) for value in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def verdicts(comparison: Comparison) -> list[str]:
    """Sentences on each arm, the best first, then on missing arms, the ranking, and the errors trained on.

    Raises:
        TypeError: If ``comparison`` is no comparison.
    """
    refuse_other_kind(comparison, Comparison, "verdicts", "make one with compare(store, 'greedy')")
    known = [line for line in comparison.arms if line.rates[comparison.goal].mean == line.rates[comparison.goal].mean]
    unknown = [line for line in comparison.arms if line not in known]
    sentences = [of_arm(comparison, line) for line in sorted(known, key=lambda a: -a.rates[comparison.goal].mean)]
    sentences += [without_mean(comparison, line) for line in unknown]
    sentences += [f"{name}: no finished run, so it is missing here." for name in comparison.missing]
    return sentences + _ranking(comparison, [line for line in known if line.trained]) + whose_errors(comparison)


def without_mean(comparison: Comparison, line: ArmLine) -> str:
    """Why an arm has no mean: all episodes of a seed were broken off, so a mean would be of the other seeds alone."""
    broken = [str(seed.seed) for seed in line.seeds if math.isnan(seed.rates[comparison.goal])]
    if len(broken) == len(line.seeds):
        return f"{line.name}: every episode failed, so there is nothing to compare."
    of = f"seed{'s' * (len(broken) > 1)} {', '.join(broken)}"
    return f"{line.name}: every episode of {of} failed, so there is no mean over the seeds; T5 has the other seeds."


def lead(comparison: Comparison) -> str:
    """The main result in two or three sentences: how many arms improve, whether they correct, whose delta is largest.

    Empty if no arm was trained.

    Raises:
        TypeError: If ``comparison`` is no comparison.
    """
    refuse_other_kind(comparison, Comparison, "lead", "make one with compare(store, 'greedy')")
    goal = comparison.goal
    trained = [line for line in comparison.arms if line.trained and line.rates[goal].mean == line.rates[goal].mean]
    if not trained:
        return ""
    largest = _largest(trained, max(trained, key=lambda line: line.rates[goal].mean), goal) if trained[1:] else ""
    if goal != "delta":
        return largest
    better = [line for line in trained if line.rates[goal].low > 0]
    n, one = len(better), len(trained) == 1
    of = f"of {counted(len(trained), 'trained arm')}"
    said = f"{counted(n, f'{of} answers', f'{of} answer') if n else f'None {of} answers'} better the second time"
    if one:
        said = f"{trained[0].name} {'answers' if n else 'does not answer measurably'} better the second time"
    ways = [way for line in better if (way := way_of(line.losses, line.mending))]
    if one and ways:
        said += f" {ways[0]}"
    elif ways:
        # The first and the last way are the answers to "is it correction?", and are given even if no arm has them.
        shown = [way for way in WAYS if way in ways or way in (CORRECTING, ANEW)]
        said += ": " + ", ".join(f"{ways.count(way) or 'none'} {way}" for way in shown)
    n_failed, n_runs = sum(s.failed for line in trained for s in line.seeds), sum(len(line.seeds) for line in trained)
    failed = f"{n_failed} of {counted(n_runs, 'training run')} failed." if n_failed else ""
    # Delta alone would praise an arm for worse first attempts.
    best = _ranking(comparison, trained)[-1] if trained[1:] else ""
    return " ".join(filter(None, [f"{said}.", largest, best, failed]))


def badges(comparison: Comparison, line: ArmLine) -> list[Badge]:
    """What the intervals and the controls show about an arm, as badges of a few words each."""
    found, goal, uses = [], line.rates[comparison.goal], uses_attempt(line.losses)
    if comparison.goal == "delta":
        if goal.low > 0:
            way = way_of(line.losses, line.mending)
            found += [Badge("improves")] if way in ("", BY_ATTEMPT) else []
            found += [Badge("corrects", "good")] if way == CORRECTING else []
            found += [Badge("uses its attempt", "good")] if way in (CORRECTING, BY_ATTEMPT) else []
            found += [Badge(BADGES[way], "doubt")] if way in BADGES else []
        else:
            found += [Badge("gets worse", "bad")] if goal.high < 0 else [Badge("no change shown")]
            found += [Badge("uses its attempt")] if uses else []
        if OTHER_ERROR in line.losses and goal.low > 0:
            found += [Badge("uses the error", "good")] if uses_error(line.losses, line.mending) else []
            found += [Badge("error not used", "doubt")] if line.losses[OTHER_ERROR].low <= 0 else []
    n_failed = sum(seed.failed for seed in line.seeds)
    if line.trained and n_failed:
        found += [Badge(f"{n_failed} of {counted(len(line.seeds), 'seed')} failed", "bad")]
    if line.crashed:
        found += [Badge(f"{len(line.crashed)} crashed", "bad")]
    return found


def of_arm(comparison: Comparison, line: ArmLine) -> str:
    """What the intervals and the controls show about an arm, in sentences."""
    goal = line.rates[comparison.goal]
    each = ", ".join(named(comparison.goal).text(seed.rates[comparison.goal]) for seed in line.seeds)
    seeds = f" (per seed {each})" if len(line.seeds) > 1 else ""
    if comparison.goal != "delta":
        sentence = f"{line.name}: acc@t1 {points(goal, False)} %{seeds}."
    elif goal.low > 0:
        sentence = f"{line.name}: answers better the second time; delta {points(goal)} points{seeds}."
    elif goal.high < 0:
        sentence = f"{line.name}: makes its answers worse; delta {points(goal)} points{seeds}."
    else:
        sentence = f"{line.name}: the interval of delta includes zero, {points(goal)} points{seeds}."
        if line.detectable > 0:  # it is 0 if no answer changed, and says nothing then
            least = percent(line.detectable)
            sentence += (
                f" With {counted(comparison.n_tasks, 'task')} and this many changed answers, a true delta of {least} "
                "points has an 80 % chance to be found."
            )
    if comparison.attempts > 2:
        whole = line.rates[f"delta_t{comparison.attempts}"]
        sentence += f" From the first to attempt {comparison.attempts}: {points(whole)} points."
    n_failed = sum(seed.failed for seed in line.seeds)
    if line.trained and n_failed:
        limit = fixed(100 * FAILED_BELOW, 0)
        sentence += f" {n_failed} of {counted(len(line.seeds), 'seed')} failed (delta of at most {limit} point)."
    if comparison.goal == "delta" and goal.low > 0 and line.losses:
        sentence += " " + does_it_correct(line.losses, line.mending)
    if line.crashed:
        which = ", ".join(map(str, line.crashed))
        missing = counted(len(line.crashed), "seed crashed and is missing", "seeds crashed and are missing")
        sentence += f" {missing}: {which}."
    return sentence


_OF_ATTEMPT = {
    WITHOUT_FIRST: "without a first attempt (C1)",
    OTHERS_FIRST: "with its first attempt at another task (C2)",
    OTHER_ATTEMPT: "with another attempt under its own error (C5)",
}
"""Words for the controls that remove or exchange the first attempt."""


def uses_attempt(losses: dict[str, Interval]) -> bool | None:
    """Whether the second attempt uses the first: every control of the attempt that was played costs accuracy.

    ``None`` if this cannot be told, because none of these controls was played, or because C1 alone was played and costs
    accuracy: an empty attempt may cost accuracy just because it is unlike anything in training.
    """
    # A loss counts if its whole interval lies above zero.
    played = {name: losses[name].low > 0 for name in _OF_ATTEMPT if name in losses}
    # A single control without a loss is enough for "not used": the attempt was changed and accuracy did not fall.
    if not all(played.values()):
        return False
    return True if played.keys() - {WITHOUT_FIRST} else None


CORRECTING, BY_ATTEMPT, AGAIN, ANEW = WAYS = (
    "by correcting",
    "by the attempt without the error",
    "by trying again where the attempt was wrong",
    "by answering anew",
)
"""Ways in which the second attempt can get better."""
BADGES = {AGAIN: "tries again", ANEW: "answers anew"}


def way_of(losses: dict[str, Interval], mending: dict[str, Interval]) -> str:
    """The one of :data:`WAYS` that the controls show; empty if they do not tell.

    An arm corrects if it uses its attempt and, where an error was told that could be exchanged (C4), the error too, and
    if this holds for its wrong first attempts alone. Otherwise it may keep right attempts and try again elsewhere.

    Args:
        losses: Loss in accuracy of the second attempt under each control, by the control's name.
        mending: The part of each loss at tasks whose own first attempt was wrong.
    """
    uses = uses_attempt(losses)
    if uses is None:
        return ""
    if not uses:
        return ANEW
    if unmended(mending):
        return AGAIN
    return CORRECTING if OTHER_ERROR not in losses or uses_error(losses, mending) else BY_ATTEMPT


def uses_error(losses: dict[str, Interval], mending: dict[str, Interval]) -> bool:
    """Whether accuracy falls under another error (C4), over all tasks and where the own attempt was wrong."""
    return losses[OTHER_ERROR].low > 0 and mending[OTHER_ERROR].low > 0


def unmended(mending: dict[str, Interval]) -> dict[str, Interval]:
    """Controls of the attempt, in words, under which as many wrong first attempts are mended as without them."""
    return {words: mending[name] for name, words in _OF_ATTEMPT.items() if name in mending and mending[name].low <= 0}


def does_it_correct(losses: dict[str, Interval], mending: dict[str, Interval]) -> str:
    """Says in sentences whether the second attempt uses the first attempt, and whether it uses the error.

    The attempt is used if accuracy falls when it is removed (C1), when it is exchanged together with the feedback on it
    (C2), and when it is exchanged under unchanged feedback (C5). An empty first attempt is unlike anything in training,
    so a loss under C1 alone shows nothing. The error is used if accuracy falls when the error alone is exchanged (C4).
    Losses that lie only where the own first attempt was right show that right attempts are kept, not that others are
    corrected.

    Args:
        losses: Loss in accuracy of the second attempt under each control, by the control's name; C4 and C5 are missing
            if nothing could be exchanged.
        mending: The part of each loss at tasks whose own first attempt was wrong.
    """
    found = {words: losses[name] for name, words in _OF_ATTEMPT.items() if name in losses}
    unharmed = {words: loss for words, loss in found.items() if loss.low <= 0}
    harmed = [f"by {points(loss, False)} points {words}" for words, loss in found.items() if loss.low > 0]
    said = []
    if unharmed:
        shown = [f"{words}: {points(loss)} points" for words, loss in unharmed.items()]
        said.append(f"It answers anew rather than corrects: acc@t2 does not fall measurably {_and(shown)}.")
        said += [f"It falls {_and(harmed)}."] if harmed else []
    elif uses_attempt(losses) and (same := unmended(mending)):
        shown = [f"{words} (it loses {points(loss)} points)" for words, loss in same.items()]
        said.append(
            "It keeps right attempts and tries again otherwise, rather than corrects: where its attempt was wrong it "
            f"is right no less often {_and(shown)}. Over all tasks acc@t2 falls {_and(harmed)}."
        )
    elif uses_attempt(losses):
        said.append(f"It uses its attempt: acc@t2 falls {_and(harmed)}.")
    elif found:
        said.append(f"Whether it uses its attempt cannot be told from this alone: acc@t2 falls {_and(harmed)}.")
    if (error := losses.get(OTHER_ERROR)) is not None:
        at_wrong = mending[OTHER_ERROR]
        fell = f"with another one acc@t2 falls by {points(error, error.low <= 0)} points"
        if error.low <= 0:
            said.append(f"It does not use the error measurably: {fell} (C4).")
        elif at_wrong.low <= 0:
            said.append(
                f"It uses the error only to tell right from wrong: {fell} (C4), but by {points(at_wrong)} where its "
                "attempt was wrong."
            )
        else:
            said.append(f"It uses the error: {fell} (C4).")
    return " ".join(said)


def whose_errors(comparison: Comparison) -> list[str]:
    """Whether arms make the errors that they were trained on, and how often they fix errors rare in training (F14)."""
    known = [(line.name, line.shift) for line in comparison.arms if line.shift is not None]
    if not known:
        return []

    def said(differs: bool) -> str:
        # Each arm is given with its own bound: the fewer its errors, the larger the total variation by chance alone.
        return _and(
            [
                f"{name} {_of_1(found.distance)} ({fixed(found.by_chance, 2)})"
                for name, found in known
                if found.differs is differs
            ]
        )

    parts = []
    if any(found.differs for _, found in known):
        parts.append(f"differ from those of the training data for {said(True)}")
    if not all(found.differs for _, found in known):
        parts.append(f"cannot be told from those of the training data for {said(False)}")
    sentences = [
        "The kinds of error at the first attempt (F14; total variation, and in parentheses what chance alone reaches) "
        f"{', and '.join(parts)}."
    ]
    for name, found in known:
        if found.differs and found.unseen.low > UNSEEN_FROM:
            sentence = (
                f"{name}: {points(found.unseen, False)} % of its wrong first attempts are of kinds that its training "
                f"data hardly hold (under {fixed(100 * HARDLY, 0)} %). "
                f"It mends {percent(found.mended_unseen)} % of these"
            )
            others = found.mended_seen
            sentences.append(sentence + (f" and {percent(others)} % of the others." if others == others else "."))
    return sentences


def _of_1(interval: Interval) -> str:
    return f"{fixed(interval.mean, 2)} [{fixed(interval.low, 2)}, {fixed(interval.high, 2)}]"


def _ranking(comparison: Comparison, trained: Sequence[ArmLine]) -> list[str]:
    if len(trained) < 2:
        return []
    goal = comparison.goal
    best = max(trained, key=lambda line: line.rates[goal].mean)
    others = [line for line in trained if line is not best]
    # The best arm is tested against each other arm, so p-values are adjusted for that number of tests (Holm).
    adjusted = holm([best.p_against[other.arm] for other in others])
    beaten = [o.name for o, p in zip(others, adjusted, strict=True) if p < 0.05 and best.against[o.arm].mean > 0]
    level = [o.name for o in others if o.name not in beaten]
    sentence, whose = _largest(trained, best, goal), f" {best.name}'s {named(goal).label}"
    if beaten:
        sentence += f"{whose} is larger than that of {', '.join(beaten)} (paired bootstrap, Holm-adjusted p < 0.05)."
        n_seeds = len(set.intersection(*({one.seed for one in line.seeds} for line in trained)))
        if not n_seeds:
            sentence += " They have no seed in common, so that one run of each was compared: read every seed."
        elif n_seeds < ENOUGH_SEEDS:
            seeds = counted(n_seeds, "seed")
            sentence += f" With {seeds} that is rough: a single failed run can carry it, so read every seed."
    if level:
        sentence += f"{whose} cannot be told from that of {', '.join(level)}."
    last = f"accuracy_t{comparison.attempts}"
    if last == goal:
        return [sentence]
    final = max(comparison.arms, key=lambda line: line.rates[last].mean)
    rate, shared = points(final.rates[last], False), _sharing(comparison.arms, final, last)
    if len(shared) > 1:
        return [sentence, f"{_and(shared)} share the best {named(last).label}: {rate} %."]
    return [sentence, f"The best {named(last).label} is {final.name}'s: {rate} %."]


def _largest(trained: Sequence[ArmLine], best: ArmLine, goal: str) -> str:
    """Sentence on which trained arms have the largest rate; it says so if that rate is zero or negative."""
    rate = named(goal)
    # Rates are compared as printed, so that no sentence ranks arms that the table shows as equal.
    value, shared = rate.text(best.rates[goal].mean), _sharing(trained, best, goal)
    if float(value) > 0 or rate.unit != "points":
        if len(shared) == 1:
            return f"The largest {rate.label} is {best.name}'s."
        return f"{_and(shared)} share the largest {rate.label}, {value} {rate.unit}."
    whose = f"{best.name}'s" if len(shared) == 1 else f"that of {_and(shared)}"
    if float(value) == 0:
        return f"No trained arm has a {rate.label} above zero; the largest is 0.0 {rate.unit}, {whose}."
    return f"Every trained arm has a {rate.label} below zero; the one nearest to zero is {whose}, {value} {rate.unit}."


def _sharing(lines: Sequence[ArmLine], best: ArmLine, rate: str) -> list[str]:
    """Names of the arms whose rate, as printed, equals that of the best arm."""
    return [line.name for line in lines if percent(line.rates[rate].mean) == percent(best.rates[rate].mean)]


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]

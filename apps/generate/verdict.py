"""The verdict on a model that generates fields: new, interpolating or replaying. The rule stands here and nowhere else.

Each sample is measured by its distance to the nearest training field, and so is a part of the training fields by theirs
to the nearest other one; in the space of weights and in that of outputs (pixels, volumes). `figures.novelty` counts.

- **replaying**: in either space a fifth of the samples or more are copies: nearer to a training field than 19 of 20
  training fields are to one another, and at most two thirds as far from it as from the next one.
- **interpolating**: not that; but in either space more than a fifth of the samples are nearer than 19 of 20 training
  fields are to one another, or a sample is the nearer one in more than 60 % of pairs of sample and training field.
- **new**: neither.

Noise is new too. So the verdict goes on with how the samples compare with fields that training has not seen, by 1-NNA:
at most 0.65 they are like them; up to 0.75 told apart more often than not; above that unlike them. A model whose 1-NNA
is not below that of the full-covariance Gaussian has learnt nothing that two moments do not say, and the sentence says
so. Good is a model that is new, like held-out fields, and whose samples can all but 5 % be used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from fieldforge.apps.generate.figures import Figure, Novelty

COPIES = 0.2
NEAR = 0.2
NEARER = 0.6
ALIKE, APART = 0.65, 0.75
LOST = 0.05

Word = Literal["new", "interpolating", "replaying", "nothing"]
Likeness = Literal["like", "apart", "unlike", "unknown"]


class Verdict(NamedTuple):
    """A word on novelty, one on quality, and both in a sentence."""

    word: Word
    likeness: Likeness
    beats_gaussian: bool | None
    """Whether the whole interval of its 1-NNA lies below the Gaussian's; None where one is not known."""
    is_good: bool
    sentence: str


def word_of(novelty: Novelty) -> Word:
    """The verdict in one space."""
    if novelty.copies >= COPIES:
        return "replaying"
    return "interpolating" if novelty.below > NEAR or novelty.nearer > NEARER else "new"


def likeness_of(accuracy: float | None) -> Likeness:
    """What a 1-NNA says."""
    if accuracy is None:
        return "unknown"
    return "like" if accuracy <= ALIKE else "apart" if accuracy <= APART else "unlike"


def judge(
    spaces: Mapping[str, Novelty], accuracy: Figure | None, gaussian: Figure | None = None, lost: float = 0.0
) -> Verdict:
    """The verdict.

    Args:
        spaces: what to call each space -> what was counted in it; none: there are no samples that can be used.
        accuracy: 1-NNA of the samples against held-out fields; None where it is not known.
        gaussian: that of the full-covariance Gaussian.
        lost: part of the samples that cannot be used (not finite, without a surface).
    """
    if not spaces:
        return Verdict("nothing", "unknown", None, False, "Nothing: none of the samples can be used.")
    words = {space: word_of(novelty) for space, novelty in spaces.items()}
    worst: Word = next(word for word in ("replaying", "interpolating", "new") if word in words.values())
    space = next(space for space, word in words.items() if word == worst)
    likeness = likeness_of(None if accuracy is None else accuracy.value)
    beats = None if accuracy is None or gaussian is None else accuracy.high < gaussian.low
    is_good = worst == "new" and likeness == "like" and lost <= LOST
    sentence = _of_novelty(worst, space, spaces) + _of_quality(worst, likeness, accuracy, gaussian, beats)
    if lost:
        sentence += f" {lost:.1%} of the samples cannot be used."
    return Verdict(worst, likeness, beats, is_good, sentence)


def _of_novelty(word: Word, space: str, spaces: Mapping[str, Novelty]) -> str:
    found = spaces[space]
    if word == "replaying":
        return f"Replaying: {found.copies:.0%} of the samples are copies of training fields (by {space})"
    if word == "interpolating":
        return (
            f"Interpolating: by {space} the samples keep closer to training fields than these to one another "
            f"({found.below:.0%} nearer than the nearest 5 %; the nearer one in {found.nearer:.0%} of pairs)"
        )
    ratios = " and ".join(f"{novelty.ratio:.2f} (by {name})" for name, novelty in spaces.items())
    return f"New: the samples are as far from training fields as these from one another, ratio {ratios}"


def _of_quality(
    word: Word, likeness: Likeness, accuracy: Figure | None, gaussian: Figure | None, beats: bool | None
) -> str:
    if accuracy is None:
        return "; how good they are is not known."
    said = f"1-NNA {accuracy.value:.2f} [{accuracy.low:.2f}, {accuracy.high:.2f}]"
    if word == "replaying":
        return f"; a {said} says nothing of new ones."
    tail = {"like": "like held-out fields", "apart": "told apart from held-out fields more often than not",
            "unlike": "unlike held-out fields"}[likeness]  # fmt: skip
    but = "and" if likeness == "like" else "but"
    if gaussian is None:
        return f"; {but} {tail}: {said}."
    against = "better than" if beats else "no better than"
    return f"; {but} {tail}: {said}, {against} a full-covariance Gaussian ({gaussian.value:.2f})."

"""From typed words to a redirector: encode prompts, fit the judge and the shift, draw the line, and say how good it is.

    words ─ texts ─► prompts ─ encode ─► tokens ─ judge, shift ─► WordsRedirector
                                            └── folds ─► where the line is, and what to expect of it
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saferedir_core.errors import ConfigError
from saferedir_core.pairs import Pair
from saferedir_core.policy import THRESHOLD_KEY, USUAL_THRESHOLD
from saferedir_core.words.concept import Concept, holds
from saferedir_core.words.encoded import Encode, Tokens, Twins, checked, encoded, encoded_pairs, joined, text_of
from saferedir_core.words.given import given_texts
from saferedir_core.words.judge import ALIKE, SHRINKAGES, Evidence, Whitening, fit_evidence, fit_network, near
from saferedir_core.words.redirector import WordsConfig, WordsRedirector
from saferedir_core.words.shift import fit_other_shift, fit_pooled_shift, fit_word, fit_word_shift
from saferedir_core.words.texts import WORDS_IN_LINE, Texts, texts_of

WORDS_KEY = "words"             # of a redirector's metadata: what it was fitted from, and its report, as JSON
VERSION = 2                     # of what is fitted to the same words; raised when the fit changes
FOLDS = 4
# Of harmless prompts so many may lie above the line: the first share where nearly all with the concept lie above.
BENIGN_RATES, NEARLY_ALL = (0.002, 0.005, 0.01, 0.02), 0.99
SURE_RATE = 0.02                # of prompts with the concept may lie below the upper end of the gap
LINE_AT = 0.5                   # of the way from the harmless prompts to those with the concept
LEAST_SEEN = 0.75               # of prompts with the concept have to lie above the harmless ones, or it cannot be told
MOST_DIRECTIONS = 8     # one for each wording, up to so many
LARGEST_FILE = 2_000_000        # bytes of a redirector's weights at most
LARGEST_SAID = 300_000          # bytes of the wordings among them, as the text encoder reads them in float16
WIDEST_RANK = 48
NEAREST_LISTS, NEAREST_SHOWN = 6, 6
HALF = torch.finfo(torch.float16).max

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What can be expected of a fit.  Rates are shares from 0 to 1, of prompts that the judge had not been fitted to.

    held_out   of prompts with a typed wording that are recognised
    unseen     the same of wordings that were left out of the fit; None with one wording
    everyday   of harmless prompts that trigger
    kept       of prompts with each line of `keep` and `instead` that trigger, by line
    moved      of prompts that, redirected, lie nearer to their safe twin than to themselves (mean of the tokens)
    nearest    everyday words next to the line with the probability of each, the likeliest first
    prompts    that were encoded; seconds that all took
    """

    held_out: float
    unseen: float | None
    everyday: float
    kept: dict[str, float]
    moved: float
    nearest: list[tuple[str, float]]
    prompts: int
    seconds: float

    def in_words(self) -> str:
        """Two sentences for people."""
        unseen = "" if self.unseen is None else f", {self.unseen:.0%} with a wording left out of the fit"
        near = ", ".join(word for word, _ in self.nearest)
        return (f"Recognises {self.held_out:.1%} of prompts with these words{unseen}; {self.everyday:.2%} of everyday "
                f"prompts trigger. Everyday words nearest to the line: {near}. Took {self.seconds:.1f} s.")


@torch.no_grad()
def fit_words(encode: Encode, concept: Concept, *, progress: Progress | None = None,
              denials: bool = False) -> WordsRedirector:
    """A redirector for a concept from words, in eval mode and without gradients, in float32 on the CPU.

    encode    `encode(texts)` gives what the model reads of N texts, see `encoded.Encoding`
    progress  hears (done, in all) of the prompts as they are encoded
    denials   whether "without pistol" counts as harmless; real text encoders hardly read "without"

    Its metadata hold the concept and a `Report` (`report_of`), and the threshold.
    ConfigError for a concept that this text encoder cannot tell from harmless prompts; ContextError and EvaluationError
    for an encoder that gives something else than finite contexts.
    """
    return _fit(encode, concept, texts_of(concept, denials), progress, networks=False)


@torch.no_grad()
def fit_pairs(encode: Encode, pairs: Sequence[Pair], *, progress: Progress | None = None) -> WordsRedirector:
    """The same from pairs of prompts that somebody wrote, unsafe and harmless ones; `given` reads their words off them.

    Errors as of `fit_words`.
    """
    return _fit(encode, *given_texts(pairs), progress, networks=True)


def _fit(encode: Encode, concept: Concept, texts: Texts, progress: Progress | None, networks: bool) -> WordsRedirector:
    """networks: whether a network may judge where no directions tell prompts apart."""
    began = time.monotonic()
    count = 2 * len(texts.pairs) + len(texts.harmless) + len(texts.background)
    told = _counting(progress, count + NEAREST_LISTS * WORDS_IN_LINE)
    pairs = encoded_pairs(encode, texts.pairs, told)
    others = encoded(encode, texts.harmless + texts.background, told)
    return _fitted(encode, concept, texts, pairs, others, told, began, networks)


def _fitted(encode: Encode, concept: Concept, texts: Texts, pairs: Twins, others: Tokens,
            told: Callable[[int], None], began: float, networks: bool) -> WordsRedirector:
    if not pairs.changed.any():
        raise ConfigError(f"{concept.remove[0]!r} and what is drawn instead cannot be told apart by this text encoder, "
                          "which reads the same tokens for both; expected different ones. Choose other wordings.")
    harmless = joined([pairs.twins, others])
    doubtful = torch.arange(harmless.count) >= harmless.count - len(texts.background)
    kept = torch.zeros(harmless.count, dtype=torch.bool)
    kept[[len(texts.pairs) + at for numbers in texts.kept.values() for at in numbers]] = True
    tried = []
    for shrinkage in SHRINKAGES:
        whitening = Whitening.of(harmless.states, pairs.own.states[pairs.changed], shrinkage)
        fit = partial(fit_evidence, whitening=whitening, directions=min(MOST_DIRECTIONS, len(concept.remove)))
        alike = doubtful & near(pairs.own, pairs.changed, harmless, whitening, ALIKE)
        tried.append((_Scores.of_folds(fit, concept, texts, pairs, harmless, doubtful, kept, alike), fit, whitening))
    if networks and max(scores.gap() for scores, *_ in tried) < 0:
        scores, _, whitening = tried[0]
        fit = partial(fit_network, whitening=whitening)
        tried.append((_Scores.of_folds(fit, concept, texts, pairs, harmless, doubtful, kept, scores.alike, False), fit,
                      whitening))
    scores, fit, whitening = max(tried, key=lambda each: each[0].gap())
    zero, scale = scores.line(networks)
    evidence = fit(pairs.own, pairs.changed, harmless, doubtful, kept).scaled(scale, zero)
    width = pairs.own.states.shape[1]
    said = said_of(encode, concept)
    hidden = 0 if evidence.inner is None else len(evidence.inner[1])
    config = WordsConfig(width, 0 if pairs.own.pooled is None else pairs.own.pooled.shape[1], len(evidence.bias),
                         rank_for(width, pairs.own.pooled, hidden), not concept.instead,
                         0 if said is None else said.shape[1], hidden)
    redirector = _assembled(config, evidence, pairs, others, whitening, said)
    nearest = _nearest(encode, texts, redirector, others, told)
    report = Report(scores.held_out(zero), scores.unseen(zero), scores.everyday(zero), scores.kept(zero),
                    _moved(redirector, pairs), nearest, pairs.own.count + harmless.count,
                    round(time.monotonic() - began, 1))
    redirector.metadata = {"concept": concept.name, THRESHOLD_KEY: str(USUAL_THRESHOLD), WORDS_KEY: json.dumps(
        {"version": VERSION, **asdict(concept), "report": _rounded(asdict(report))}, ensure_ascii=True)}
    return redirector.eval().requires_grad_(False)


def report_of(redirector: WordsRedirector) -> Report:
    """What `fit_words` found out about it."""
    return Report(**json.loads(redirector.metadata[WORDS_KEY])["report"])


def concept_of(redirector: WordsRedirector) -> Concept:
    """What it was fitted to.  ConfigError where its file does not say."""
    try:
        known = json.loads(redirector.metadata[WORDS_KEY])
        return Concept(known["remove"], known["instead"], known["keep"], known["kind"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError("The redirector's file does not say which words it was fitted to; expected them in its "
                          "metadata. Make it anew with SafeRedir Words.") from error


def rank_for(width: int, pooled: Tensor | None, hidden: int = 0) -> int:
    """Rank of the shift, so that a redirector of wide tokens stays below LARGEST_FILE in float32."""
    each = 4 * (5 * width + (0 if pooled is None else 2 * pooled.shape[1]))
    fixed = LARGEST_SAID + 4 * (MOST_DIRECTIONS + 2 + hidden) * width
    return max(1, min(WIDEST_RANK, (LARGEST_FILE - fixed) // each, width))


def said_of(encode: Encode, concept: Concept) -> Tensor | None:
    """The wordings in one prompt as the text encoder reads them, and an empty prompt, (2, n, D) in float16.

    Without padding; the empty prompt is filled up with its last token.  So many wordings as fit into LARGEST_SAID; None
    where not even one does.
    """
    count = len(concept.remove)
    while count:
        found = checked(encode([", ".join(concept.remove[:count]), ""]), 2)
        parts = [context[text] for context, text in zip(found.context.float().cpu(), text_of(found))]
        length, most = max(map(len, parts)), LARGEST_SAID // (4 * found.context.shape[2])
        if length <= most:
            filled = [torch.cat([each, each[-1:].expand(length - len(each), -1)]) for each in parts]
            return torch.stack(filled).clamp(-HALF, HALF).half()
        count = min(count - 1, count * most // length)
    return None


def _assembled(config: WordsConfig, evidence: Evidence, pairs: Twins, others: Tokens,
               whitening: Whitening, said: Tensor | None) -> WordsRedirector:
    weights = dict(zip(("evidence.weight", "evidence.bias"), (evidence.weight, evidence.bias)))
    weights |= dict(zip(("inner.weight", "inner.bias"), evidence.inner or ()))
    weights |= dict(zip(("word.weight", "word.bias"), fit_word(pairs, others, whitening)))
    maps = {"word_shift": fit_word_shift(pairs, whitening, config.rank, config.takes_out),
            "other_shift": fit_other_shift(pairs, others, whitening, config.rank)}
    if pairs.own.pooled is not None and pairs.twins.pooled is not None:
        maps["pooled_shift"] = fit_pooled_shift(pairs.own.pooled, pairs.twins.pooled, config.rank)
    weights |= {f"{name}.{part}": value for name, found in maps.items()
                for part, value in zip(("down.weight", "down.bias", "up.weight"), found)}
    weights |= {} if said is None else {"said": said}
    with torch.inference_mode(False):   # where nodes run; the host could not move weights that were made in it
        with torch.device("meta"):      # nothing is drawn at random for weights that come anyway
            redirector = WordsRedirector(config)
        redirector.load_state_dict({name: value.clone().contiguous() for name, value in weights.items()}, assign=True)
    return redirector


@dataclass
class _Scores:
    """Evidence of prompts under a judge that was not fitted to them.

    seen: of prompts with a wording that the judge knows, written as typed; left_out: with one that it does not;
    harmless: of twins, harmless prompts and background, in this order; alike: which of these mean something like the
    concept, and do not count where the line is drawn.
    """

    concept: Concept
    texts: Texts
    seen: Tensor
    left_out: Tensor
    harmless: Tensor
    alike: Tensor

    @classmethod
    def of_folds(cls, fit: Callable[..., Evidence], concept: Concept, texts: Texts, pairs: Twins,
                 harmless: Tokens, doubtful: Tensor, kept: Tensor, alike: Tensor, wordings: bool = True) -> _Scores:
        """wordings: whether some are left out of each fold, and not only prompts."""
        number = {each: at for at, each in enumerate(dict.fromkeys((*concept.remove, *texts.wordings)))}
        wording = torch.tensor([number[each] for each in texts.wordings])
        typed = torch.tensor([holds(pair.text, each) for pair, each in zip(texts.pairs, texts.wordings)])
        # A pair's twin, and whatever else is the same prompt, stays on one side.
        fold_of_pair = torch.arange(pairs.own.count) % FOLDS
        fold_of_other = torch.cat([fold_of_pair, torch.arange(harmless.count - pairs.own.count) % FOLDS])
        several = wordings and len(concept.remove) > 1
        seen, left_out, scores = [], [], torch.zeros(harmless.count)
        for fold in range(FOLDS):
            away = (wording % FOLDS == fold) if several else torch.zeros_like(typed)
            known = ~away & (fold_of_pair != fold)
            if not known.any():
                continue
            rest = fold_of_other != fold
            judge = fit(pairs.own.of(known), pairs.changed[known[pairs.own.prompt]], harmless.of(rest),
                        doubtful[rest], kept[rest])
            own = judge.of(pairs.own)
            seen.append(own[~away & (fold_of_pair == fold) & typed])
            left_out.append(own[away & typed])
            scores[fold_of_other == fold] = judge.of(harmless)[fold_of_other == fold]
        return cls(concept, texts, torch.cat(seen), torch.cat(left_out), scores, alike)

    def gap(self) -> float:
        """How far prompts with the concept are from harmless ones, in units of how far the usual ones are."""
        low, high = self.low(BENIGN_RATES[0]), self.seen.quantile(SURE_RATE)
        return float((high - low) / (self.seen.median() - self.harmless.median()).clamp_min(1e-6))

    def low(self, rate: float) -> float:
        """The evidence above which such a share of the harmless prompts lies."""
        return float(self.harmless[~self.alike].quantile(1 - rate))

    def line(self, even: bool = False) -> tuple[float, float]:
        """Where evidence becomes unsafe, and by what it is scaled to be a logit.  ConfigError where there is no gap.

        even: where there is none, as large a share of either kind of prompts may lie on the wrong side.
        """
        lows = [self.low(rate) for rate in BENIGN_RATES]
        zero = next((each for each in lows if _share(self.seen, each) >= NEARLY_ALL), lows[-1])
        if even and zero != lows[0]:
            misses = self.seen.sort().values
            alarms = torch.tensor([_share(self.harmless[~self.alike], each) for each in misses])
            missed = torch.arange(len(misses)) / len(misses)
            zero = float(misses[int((alarms - missed).abs().argmin())])
        if _share(self.seen, zero) < LEAST_SEEN:
            raise ConfigError(self._alike())
        if zero == lows[0]:     # there is a gap, and the line goes into it
            zero += LINE_AT * max(float(self.seen.quantile(SURE_RATE)) - zero, 0.0)
        return zero, _slope(self.seen - zero, self.harmless - zero)

    def _alike(self) -> str:
        """Names what cannot be told apart."""
        middle = self.seen.median()
        alike = [line for line, scores in self._kept_scores().items() if (scores >= middle).float().mean() > 0.1]
        removed = repr(self.concept.remove[0])
        if alike:
            return (f"{alike[0]!r} and {removed} cannot be told apart by this text encoder; expected words whose "
                    "meanings differ more. Take the line out of keep or instead, or choose other wordings.")
        return (f"{removed} and everyday prompts cannot be told apart by this text encoder: at the line where "
                f"{BENIGN_RATES[-1]:.0%} of everyday prompts trigger, it sees "
                f"{_share(self.seen, self.low(BENIGN_RATES[-1])):.0%} of prompts with these "
                f"words; expected {LEAST_SEEN:.0%}. Choose wordings that say more, or a model with a larger text "
                "encoder.")

    def _kept_scores(self) -> dict[str, Tensor]:
        others = self.harmless[len(self.texts.pairs):]
        return {line: others[numbers] for line, numbers in self.texts.kept.items() if numbers}

    def held_out(self, zero: float) -> float:
        return _share(self.seen, zero)

    def unseen(self, zero: float) -> float | None:
        return _share(self.left_out, zero) if len(self.left_out) else None

    def everyday(self, zero: float) -> float:
        return _share(self.harmless[-len(self.texts.background):], zero)

    def kept(self, zero: float) -> dict[str, float]:
        return {line: _share(scores, zero) for line, scores in self._kept_scores().items()}


def _share(scores: Tensor, zero: float) -> float:
    return float((scores >= zero).float().mean())


def _slope(unsafe: Tensor, safe: Tensor) -> float:
    """What evidence is multiplied by to be a logit (Platt 1999, with his targets), the line staying where it is."""
    values = torch.cat([unsafe, safe]).double()
    targets = torch.cat([torch.full_like(unsafe, 1 - 1 / (len(unsafe) + 2)),
                         torch.full_like(safe, 1 / (len(safe) + 2))]).double()
    weights = torch.cat([torch.full_like(unsafe, 1 / len(unsafe)), torch.full_like(safe, 1 / len(safe))]).double()
    slopes = torch.logspace(-2, 2, 200, dtype=torch.double)
    losses = [(weights * F.binary_cross_entropy_with_logits(slope * values, targets, reduction="none")).sum()
              for slope in slopes]
    return float(slopes[int(torch.stack(losses).argmin())])


def _moved(redirector: WordsRedirector, pairs: Twins) -> float:
    """Share of prompts whose mean token, redirected, is nearer to the twin's than to the prompt's own."""
    own, twins, moved = pairs.own, pairs.twins, []
    for prompt in range(own.count):     # by itself, because a token looks at the last one of its prompt
        moved.append(redirector.redirect_prompt(own.states[own.prompt == prompt][None])[0])

    def mean(states: Tensor, tokens: Tokens) -> Tensor:
        total = torch.zeros(tokens.count, states.shape[1]).index_add(0, tokens.prompt, states)
        return total / torch.bincount(tokens.prompt, minlength=tokens.count)[:, None]

    after, before, safe = mean(torch.cat(moved), own), mean(own.states, own), mean(twins.states, twins)
    return float((torch.cosine_similarity(after, safe) > torch.cosine_similarity(after, before)).float().mean())


def _nearest(encode: Encode, texts: Texts, redirector: WordsRedirector, others: Tokens,
             told: Callable[[int], None]) -> list[tuple[str, float]]:
    """Everyday words, each by itself, of those lists of words that came closest to the concept."""
    scores = others.largest(redirector.token_evidence(others.states[None])[0])[len(texts.harmless):]
    closest = sorted(texts.lists, key=lambda at: -float(scores[at]))[:NEAREST_LISTS]
    words = [word for at in closest for word in texts.lists[at]]
    alone = encoded(encode, words, told)
    chances = alone.largest(redirector.token_evidence(alone.states[None])[0]).sigmoid()
    order = chances.argsort(descending=True)[:NEAREST_SHOWN].tolist()
    return [(words[at], float(chances[at])) for at in order]


def _counting(progress: Progress | None, count: int) -> Callable[[int], None]:
    done = 0

    def told(more: int) -> None:
        nonlocal done
        done = min(done + more, count)
        if progress is not None:
            progress(done, count)

    return told


def _rounded(values: Any) -> Any:
    if isinstance(values, float):
        return round(values, 5)
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    return [_rounded(value) for value in values] if isinstance(values, (list, tuple)) else values

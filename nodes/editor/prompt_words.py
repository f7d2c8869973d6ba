"""The words of the prompt that a report is about: its token scores know positions only."""

from __future__ import annotations

from functools import cache

from saferedir_core.architecture import ANY, USUAL, architecture

from .graph_walk import links, output_type, upstream

CONDITIONING = "CONDITIONING"
TEXT_INPUTS = ("text", "text_l", "prompt")


def prompt_text(prompt: dict, node_id: str) -> str | None:
    """The text behind the nearest sampler's positive conditioning, seen from a node behind it.

    prompt: API format.  None unless it comes from exactly one text encoder whose text stands in the graph: what is
    guessed would colour the wrong words.
    """
    for consumer in (node_id, *upstream(prompt, node_id)):
        sources = [source for name, source, slot in links(prompt, consumer)
                   if "negative" not in name and output_type(prompt, source, slot) == CONDITIONING]
        if sources:
            encoders = {each for source in sources for each in _encoders(prompt, source)}
            inputs = prompt.get(encoders.pop(), {}).get("inputs", {}) if len(encoders) == 1 else {}
            return next((inputs[name] for name in TEXT_INPUTS if isinstance(inputs.get(name), str)), None)
    return None


def tokens_of(text: str, count: int) -> list[str] | None:
    """The text's tokens, `count` of them, as CLIP counts them; None when it has another number of them.

    Start, end and padding are "".  A token that ends a word ends in a space.
    """
    pieces = []
    tokenizer, words = _tokenizer()
    for chunk in tokenizer.tokenize_with_weights(text, return_word_ids=True):
        for token, _, word in chunk:
            # Word 0 is what belongs to none: start, end, padding.  Textual inversions are tensors.
            pieces.append("" if word == 0 else words[token].replace("</w>", " ") if isinstance(token, int) else "* ")
    return pieces if len(pieces) == count else None


def words_of(report: dict, text: str | None) -> dict | None:
    """What a report says about its prompt: text, and tokens in step with each item's token scores; None if unknown."""
    counts = {len(item["tokens"]["token_mask"]) for item in report["items"] if item.get("tokens")}
    kind = ((report.get("redirector") or {}).get("config") or {}).get("architecture", USUAL)
    # CLIP's words; T5 counts others, and who reads any text encoder does not say which.
    if text is None or len(counts) != 1 or kind == ANY.name or architecture(kind).ragged:
        return None
    tokens = tokens_of(text, counts.pop())
    return None if tokens is None else {"text": text, "tokens": tokens}


def _encoders(prompt: dict, node_id: str) -> list[str]:
    """The nodes that make a conditioning out of something else."""
    found, waiting, seen = [], [node_id], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        both = any("positive" in name for name, _, _ in links(prompt, current))
        sources = [source for name, source, slot in links(prompt, current)
                   if output_type(prompt, source, slot) == CONDITIONING and not (both and "negative" in name)]
        waiting += sources
        if not sources:
            found.append(current)
    return found


@cache
def _tokenizer():
    """The host's tokenizer and its vocabulary {number: piece}, which all models of the family share."""
    import comfy.sd1_clip

    tokenizer = comfy.sd1_clip.SDTokenizer()
    return tokenizer, tokenizer.inv_vocab

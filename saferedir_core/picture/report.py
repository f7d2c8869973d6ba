"""The part of a report that tells what was seen in the pictures."""

from collections.abc import Mapping, Sequence

from saferedir_core.picture.run import Look
from saferedir_core.picture.verdict import Attempts
from saferedir_core.report import NOT_EVALUATED, REDIRECTED, numbers_of, plain, prompt_alone_is_safe, verdict_of_all

CLEAN, REMAINS, NOT_LOOKED_AT = "clean", "remains", "not_looked_at"
_DONE = {"blanked": ": blanked", "stopped": ": stopped"}


def picture_report(looks: Sequence[Look], attempts: Attempts, if_it_remains: str, done: Mapping[int, str]) -> dict:
    """What the picture judges and the verdict said, as a JSON-serialisable dict.

    done  by number of an image that remains, what became of it: "told", "blanked" or "stopped"

    verdict        "clean", "remains" or "not_looked_at", of all images together
    said           the same in an English sentence
    if_it_remains  the setting
    concepts       per concept that the finished images were looked at for: concept, source ("picture judge",
                   "witness") and threshold
    items          per image: item, verdict, probability and attempt (from 0) that it was taken from, done ("nothing",
                   or as above); on the way highest_on_the_way, first_unsafe (index into `looks`) and pushed (looks)
    attempts       per time that the batch was sampled: changed, images it was for, taken from it, and for every image
                   of the batch probability and remains
    seen           per concept that a picture judge or the witness found in any image: concept, images (how many), looks
                   (at how many) of all, first_step of these and moved; 0 looks, None and False where only finished
                   images showed it
    looks          per model call: index, attempt, step, sigma, and per image probability, unsafe, pushed; by_concept
                   and threshold (of the noise level) by concept
    """
    count = len(attempts[0].verdict.highest) if attempts else len(looks[0].pushed) if looks else 0
    remaining = attempts.remaining
    verdict = NOT_LOOKED_AT if not attempts else REMAINS if remaining else CLEAN
    items = [_item(item, looks, attempts, done) for item in range(count)]
    return plain({
        "verdict": verdict,
        "said": _said(verdict, items, attempts, done),
        "if_it_remains": if_it_remains,
        "concepts": [{"concept": name, "source": source, "threshold": attempts[0].verdict.threshold[name]}
                     for name, source in attempts[0].verdict.source.items()] if attempts else [],
        "items": items,
        "attempts": [{"changed": each.changed, "images": each.images, "taken": each.taken,
                      "probability": each.verdict.highest, "remains": each.verdict.any_remains} for each in attempts],
        "seen": [each for name in dict.fromkeys([*(looks[0].unsafe if looks else ()),
                                                 *(attempts[0].verdict.source if attempts else ())])
                 if (each := _seen(name, looks, attempts))["images"]],
        "looks": [{"index": each.index, "attempt": each.attempt, "step": each.step, "sigma": each.sigma,
                   "probability": each.highest, "unsafe": each.any_unsafe, "pushed": each.pushed,
                   "by_concept": dict(each.probability), "threshold": dict(each.threshold)} for each in looks],
    })


def with_picture(content: dict, picture: dict) -> dict:
    """A report (see `report`) that also tells of the pictures: under `picture`, in the verdict, and in the status.

    An item whose picture was unsafe at any call, or remained at the end of any attempt, counts as redirected.  Where no
    prompt was unsafe by itself the verdict tells that the picture was, with several concepts that of each.
    """
    seen = {each["concept"]: each for each in picture["seen"]}
    if "concepts" in content:
        parts = [{**part, "verdict": _verdict(part, picture, seen.get(part["concept"]))}
                 for part in content["concepts"]]
        content = {**content, "concepts": parts, "verdict": verdict_of_all(parts)}
    else:
        content = {**content, "verdict": _verdict(content, picture, next(iter(seen.values()), None))}
    items = [{**item, "status": REDIRECTED} if _unsafe(picture, item["item"]) else item for item in content["items"]]
    status = REDIRECTED if any(_unsafe(picture, each["item"]) for each in picture["items"]) else content["status"]
    said = "" if content["status"] == NOT_EVALUATED and not picture["looks"] else f" {picture['said']}"
    return {**content, "status": status, "verdict": f"{content['verdict']}{said}", "items": items, "picture": picture}


def with_looks(content: dict, looks: Mapping[int, Look]) -> dict:
    """A report whose decisions have the pictures' probability of the same model call, per image.

    looks  by index of the decision
    """
    content = {**content, "decisions": [_with_look(each, looks) for each in content["decisions"]]}
    if "concepts" in content:
        content["concepts"] = [{**part, "decisions": [_with_look(each, looks, part["concept"])
                                                      for each in part["decisions"]]} for part in content["concepts"]]
    return content


def _with_look(decision: dict, looks: Mapping[int, Look], concept: str | None = None) -> dict:
    """concept: None for all together."""
    look = looks.get(decision["index"])
    found = None if look is None else look.highest if concept is None else look.probability.get(concept)
    return {**decision, "picture_probability": [None] * len(decision["redirected"]) if found is None else plain(found)}


def _verdict(content: dict, picture: dict, seen: dict | None) -> str:
    """That of a report's prompts, where they were unsafe; else what was seen in their pictures."""
    items, threshold = content["items"], content["policy"]["threshold"]
    if seen is None or content["status"] == NOT_EVALUATED or not prompt_alone_is_safe(items, threshold):
        return content["verdict"]
    alone = f"the prompt alone was safe ({numbers_of(items, threshold)})."
    images = f"{seen['images']} of {len(picture['items'])} items"
    if not seen["looks"]:
        return f"Seen in the finished picture: {images}; {alone}"
    word = "Redirected" if seen["moved"] or content["policy"]["mode"] == "guard" else "Unsafe"
    place = "" if seen["first_step"] is None else f", first at step {seen['first_step']}"
    return f"{word}: the picture of {images}, at {seen['looks']} of {seen['of']} looks{place}; {alone}"


def _seen(concept: str, looks: Sequence[Look], attempts: Attempts) -> dict:
    unsafe = [look for look in looks if any(look.unsafe.get(concept, ()))]
    flags = [*(look.unsafe[concept] for look in unsafe),
             *(each.verdict.remains[concept] for each in attempts if concept in each.verdict.remains)]
    return {"concept": concept, "images": sum(map(any, zip(*flags))), "looks": len(unsafe), "of": len(looks),
            "first_step": unsafe[0].step if unsafe else None,
            "moved": any(any(look.pushed) for look in unsafe)}


def _unsafe(picture: dict, item: int) -> bool:
    if item >= len(picture["items"]):
        return False
    return picture["items"][item]["first_unsafe"] is not None or any(
        each["remains"][item] for each in picture["attempts"])


def _item(item: int, looks: Sequence[Look], attempts: Attempts, done: Mapping[int, str]) -> dict:
    first = next((look.index for look in looks if look.any_unsafe[item]), None)
    attempt = attempts.of(item) if attempts else None
    return {
        "item": item,
        "verdict": NOT_LOOKED_AT if attempt is None else REMAINS if attempt.verdict.any_remains[item] else CLEAN,
        "probability": None if attempt is None else attempt.verdict.highest[item],
        "attempt": None if attempt is None else attempts.index(attempt),
        "done": done.get(item, "nothing"),
        "highest_on_the_way": max((look.highest[item] for look in looks), default=None),
        "first_unsafe": first,
        "pushed": sum(look.pushed[item] for look in looks),
    }


def _said(verdict: str, items: list[dict], attempts: Attempts, done: Mapping[int, str]) -> str:
    moved = sum(item["pushed"] > 0 for item in items)
    seen = sum(item["first_unsafe"] is not None for item in items)
    way = (f" Moved on the way: {moved} of {len(items)}." if moved else
           f" Unsafe on the way: {seen} of {len(items)}." if seen else "")
    if verdict == NOT_LOOKED_AT:
        return f"Picture: not looked at when finished.{way}"
    again = f" after {len(attempts)} attempts" if len(attempts) > 1 else ""
    highest = max(item["probability"] for item in items)
    lowest = min(attempts[0].verdict.threshold.values())
    numbers = f"highest probability {highest:.2f}, threshold {lowest:.2f}"
    if verdict == CLEAN:
        return f"Picture: clean{again} ({numbers}).{way}"
    remaining = attempts.remaining
    what = next((_DONE[each] for each in done.values() if each in _DONE), "")
    return f"Picture: the concept remains in {len(remaining)} of {len(items)} images{again} ({numbers}){what}.{way}"

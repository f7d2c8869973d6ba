"""docs/results.md and the README's table: what is claimed, what was measured, and where.  Measures nothing itself.

    python quickstart.py run lab/results.py

Reads what the other commands left in docs/*.json and on the pages that they wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from saferedir_core.files import write_whole
from saferedir_core.metrics import Share, marked, table

from ..nodes.demo_world.concepts import CONCEPTS
from .backbones.backbones import REACH_GONE, REACH_IDENTICAL
from .benchmark.benchmark_page import against_targets
from .costs.costs_page import Content, of_all
from .figures import DOCS
from .host.film import FILM, MOST_BYTES
from .host.first_minute import TEMPLATE as FIRST
from .host.first_minute import reached
from .pictures.leak_page import LORA, TARGETS, WITNESS, Target
from .words.page import TYPED_ROWS, pooled

README = DOCS.parent / "README.md"
KINDS_TRIED = "backbones.md#what-is-missed-and-what-was-tried"


@dataclass(frozen=True)
class Claim:
    """A row: what is claimed, what was aimed at ("" for what is only reported), and each figure with whether it met
    that (None: nothing was aimed at)."""

    name: str
    target: str
    found: Sequence[tuple[str, bool | None]]

    def cells(self) -> tuple[str, ...]:
        return self.name, self.target or "reported", *(marked(*each) for each in self.found)


@dataclass(frozen=True)
class Section:
    """command, page: what measured it and where, or "" where each claim has a page of its own.  tried: where it stands
    what was tried for what is missed."""

    title: str
    said: str
    command: str
    page: str
    tried: str
    columns: Sequence[str]
    claims: Sequence[Claim]

    def text(self) -> str:
        missed = any(met is False for claim in self.claims for _, met in claim.found)
        where = f" `{self.command}` writes [{self.page}]({self.page})." if self.command else ""
        if missed and self.tried:
            where += f" What was tried for what is missed: [{self.tried.split('#')[0]}]({self.tried})."
        return "\n\n".join((f"## {self.title}", self.said + where,
                            table(("claim", "target", *self.columns), [each.cells() for each in self.claims])))


def read(name: str) -> dict:
    return json.loads((DOCS / name).read_text(encoding="utf-8"))


def lines_of(page: str, pattern: str) -> tuple[str, ...]:
    """What a page says, by a pattern's groups."""
    found = re.search(pattern, (DOCS / page).read_text(encoding="utf-8"))
    if not found:
        raise ValueError(f"docs/{page} has nothing that matches {pattern!r}: write it anew, or mend the pattern")
    return found.groups()


def trained() -> Section:
    part = read("pictures.json")["leak"]
    claims = []
    for target in TARGETS:
        found = [target.of(part["found"], concept) for concept in CONCEPTS]
        claims.append(Claim(target.name, target.aim, [
            (str(each), target.met(each)) if each else ("not measured", None) for each in found]))
    return Section("A trained redirector, with a prompt judge and a picture judge",
                   "Demo world, 64 x 64 pixels, three trainings counted together; *leak* is a picture that shows the "
                   f"concept and leaves a guard with `if_it_remains: blank`. {part['machine']}, {part['date']}.",
                   "lab/pictures/leak.py", "pictures.md", "pictures.md#what-is-missed-and-what-was-tried",
                   tuple(CONCEPTS), claims)


def typed(part: dict) -> dict[tuple[str, str], dict]:
    """What four typed wordings did, by concept and row."""
    return {(each["concept"], each["row"]): each for each in part["found"]["rows"]
            if each["part"] == "typed" and each["method"] == "words"}


def words() -> Section:
    part = read("words.json")["demo_world"]
    rows, claims = typed(part), []
    for row, key, title, least in TYPED_ROWS:
        shares = [Share(*rows[concept, row][key]) for concept in CONCEPTS]
        claims.append(Claim(title, f"at least {100 * least:g} %" if least else "", [
            (str(each), None if least is None else (each.value or 0) >= least) for each in shares]))
    return Section("A redirector of typed words, on the demo world",
                   f"Four wordings typed for each concept, pixels judged. {part['machine']}, {part['date']}.",
                   "lab/words/demo_world.py", "words.md", "words.md#four-wordings-typed", tuple(CONCEPTS), claims)


def sentences() -> Section:
    part = read("words.json")["sentences"]
    claims = [Claim(title, aim, [(str(share), met)]) for _, title, aim, share, met in pooled(part["found"])]
    return Section("Typed words on a pretrained text encoder",
                   "Eight concepts on all-MiniLM-L6-v2, prompts of public sets, the prompt judge alone: no pictures. "
                   f"{part['machine']}, {part['date']}.", "lab/words/sentences.py", "words.md",
                   "words.md#a-concept-from-words-how-well-it-works", ("eight concepts",), claims)


def real_latents() -> Section:
    part = read("pictures.json")["real_latents"]
    claims = []
    for row in part["found"]["rows"]:
        head = row["by unseen"]["verdict"]
        share = Share(*head["recognised"])
        name = f"{row['concept']}, drawings of {row['unseen']} never seen"
        claims += [Claim(f"{name}: AUC", "at least 0.95", [(f"{head['auc']:.3f}", head["auc"] >= 0.95)]),
                   Claim(f"{name}: recognised at 2 % false alarms", "at least 70 %",
                         [(str(share), (share.value or 0) >= 0.7)])]
    return Section("A picture judge on latents of real artwork",
                   "Emoji of several artists, as latents of Stable Diffusion 1.x's tiny autoencoder. "
                   f"{part['machine']}, {part['date']}.", "lab/pictures/real_latents.py", "pictures.md",
                   "pictures.md#what-was-tried", ("measured",), claims)


def rewritten() -> Section:
    part = read("benchmark.json")
    claims = [Claim(goal.title, goal.aim, [(str(each), goal.met(each.value or 0)) for each in shares])
              for goal, shares in against_targets(part["found"])]
    return Section("Rewritten prompts", "The trained redirectors of the demo world as they are shipped, what remains "
                   f"in a picture only told. {part['machine']}, {part['date']}.", "lab/benchmark/benchmark.py",
                   "benchmark.md", "benchmark.md#targets", tuple(CONCEPTS), claims)


def kinds() -> Section:
    parts = read("backbones.json")
    claims = [Claim(title, f"at least {100 * least:g} %", [
        (str(each), (each.value or 0) >= least) for each in (Share(*part["found"][key]) for part in parts.values())])
        for key, title, least in (("gone", "the concept is gone", REACH_GONE),
                                  ("identical", "benign images bit-identical", REACH_IDENTICAL))]
    return Section("Other kinds of models", "Small models of the host's own classes, a redirector with both judges "
                   f"for stripes. {', '.join(dict.fromkeys(part['date'] for part in parts.values()))}.",
                   "lab/backbones/backbones.py", "backbones.md", KINDS_TRIED,
                   tuple(parts), claims)


def hosts() -> Section:
    paths, = lines_of("matrix.md", r"- (\d+ paths: .*)")
    drawn, left = map(int, lines_of("matrix.md", r"- the concept: (\d+) images without guard, (\d+) with it"))
    same, of, more = lines_of("matrix.md", r"- harmless prompts bit-identical: (\d+) of (\d+) paths(?:; (\d+) more)?")
    waiting = re.search(r"- (\d+ paths not run yet)", (DOCS / "matrix.md").read_text(encoding="utf-8"))
    prompts, load = lines_of("load.md", r"\| prompts run to their end \| (\d+)(.*) \|")
    changed, = lines_of("load.md", r"\| images that differ from the first of their kind \| (\d+)")
    growth, memory = lines_of("load.md", r"\| growth of the server's memory.* \| ([-\d.]+) % (\(.*\)) \|")
    left_over, = lines_of("load.md", r"\| threads and files left over \| (.*) \|")
    cancels, = lines_of("load.md", r"\| prompts cancelled at a random moment \| (\d+)")
    files, refused, others = lines_of("fuzz-readers.md", r"(\d+) mutated files: (.*), (\d+) did anything else")
    releases = re.findall(r"^\| (\d[\d.]+) \| ([\d.]*) .*\| (\d+) \| (\d+) \| (\d+) \|$",
                          (DOCS / "releases.md").read_text(encoding="utf-8"), re.M)
    def claim(name: str, target: str, found: str, met: bool, page: str) -> Claim:
        return Claim(name, target, [(found, met), (f"[{page}]({page})", None)])

    return Section("In the host", "Real servers with the demo world's model; each page has its command.", "", "",
                   "matrix.md#where-a-harmless-prompts-image-differs", ("measured", "page"), [
        claim("every sampler, guider, conditioning node and model patch of ComfyUI: images that show the concept, "
              "unguarded, then guarded", "0 guarded", f"{drawn}, then {left}; {paths}"
              + (f"; {waiting[1]}" if waiting else ""), left == 0, "matrix.md"),
        claim("the same paths with a harmless prompt, bit-identical where that does not draw the concept", "all",
              f"{same} of {of}; {more or 0} more drew it", int(same) + int(more or 0) == int(of), "matrix.md"),
        claim("prompts under load whose image changed", "0", f"{changed} of {prompts}{load}", changed == "0",
              "load.md"),
        claim("growth of a server's memory under that load", "at most 2 %", f"{growth} % {memory}",
              float(growth) <= 2, "load.md"),
        claim(f"threads and files left after it and {cancels} cancels", "none", left_over, left_over == "none",
              "load.md"),
        claim("damaged and hostile weight files that did anything but load or be refused", "0",
              f"{others} of {files}; {refused}", others == "0", "fuzz-readers.md"),
        *(claim(f"the test suite on ComfyUI {release}" + (f", frontend {frontend}" if frontend else ""), "0 failed",
                f"{passed} passed, {skipped} skipped, {failed} failed", failed == "0", "releases.md")
          for release, frontend, passed, skipped, failed in releases)])


def first_minute() -> Section:
    def claim(name: str, target: str, found: str, met: bool) -> Claim:
        return Claim(name, target, [(found, met)])

    parts = read("first-minute.json")
    templates = sorted((DOCS.parent / "workflows").glob("*.json"))
    nodes = len(json.loads((DOCS.parent / "workflows" / f"{FIRST}.json").read_text(encoding="utf-8"))["nodes"])
    film = FILM.stat().st_size
    return Section("The first minute", f"{parts['installed']['machine']}, {parts['installed']['date']}.",
                   "lab/host/first_minute.py", "first-minute.md", "", ("measured",), [
        *(claim(*measured) for measured in reached(parts)),
        claim(f"nodes of the graph that quickstart.py opens ({FIRST})", "at most 9", str(nodes), nodes <= 9),
        claim("templates", "at least 16", str(len(templates)), len(templates) >= 16),
        claim("the README's film", "at most 3 MB", f"{film / 1e6:.2f} MB", film <= MOST_BYTES)])


def costs() -> Section:
    content = Content.earlier(DOCS, quick=False)
    claims = [Claim(what, target, [(measured, met)]) for what, target, measured, met in of_all(content)]
    return Section("What it costs", "Models with random weights where only size matters; each figure's machine and "
                   "date stand on its page.", "lab/costs/bench.py", "costs.md", "costs.md#what-is-missed-and-why",
                   ("measured",), claims)


SECTIONS = words, trained, rewritten, kinds, sentences, real_latents, hosts, first_minute, costs
INTRODUCTION = """# Results

Every target, hit or missed, from what the laboratory's commands measured last (`python quickstart.py run FILE` in a
clone runs one; `lab/results.py` writes this page). In brackets: how many of how many, and the Wilson 95 % interval.
**{hit} of {all} figures meet their target.**

- Pictures are the [demo world's](demo-world.md): scenes of 64 x 64 pixels that a small diffusion model draws, and code
  that reads their pixels. These are figures about a mechanism, not about photographs. Test prompts were frozen before
  anything was measured, and no training saw them.
- **Nobody has measured this pack on a real checkpoint yet**, and nothing here ran on a GPU. One command does
  ([study.md](study.md)); [paper.md](paper.md) says what of the paper is reproduced.
- Beside other methods: [benchmark.md](benchmark.md), [words.md](words.md). Other packs:
  [other-packs.md](other-packs.md). Downloads that go wrong: [hub-faults.md](hub-faults.md). Graphs against a server
  with enforcement: [SECURITY.md](../SECURITY.md)."""


def page() -> str:
    sections = [make() for make in SECTIONS]
    met = [each for section in sections for claim in section.claims for _, each in claim.found if each is not None]
    return "\n\n".join((INTRODUCTION.format(hit=sum(met), all=len(met)), *(each.text() for each in sections))) + "\n"


def quoted() -> str:
    """The README's table."""
    leaks, rows = read("pictures.json")["leak"]["found"], typed(read("words.json")["demo_world"])
    targets = {each.name: each for each in TARGETS}

    def by_training(title: str) -> str:
        return _listed(targets[title].of(leaks, concept) for concept in CONCEPTS)

    return table(("stripes, watercolour, boats", "four typed wordings", "trained, with a picture judge"), (
        ("the concept is gone, where a prompt asks for it",
         _listed(Share(*rows[concept, "typed"]["fsr"]) for concept in CONCEPTS),
         by_training("FSR: the concept is gone")),
        ("harmless images stay bit for bit the same",
         _listed(Share(*rows[concept, "benign"]["identical"]) for concept in CONCEPTS),
         by_training("benign images bit-identical")),
        ("it leaves nevertheless: start images that bring it in",
         by_training("leak: start images, typed words and the witness"),
         by_training("leak: start images, every strength")),
        ("LoRAs that draw it for plain captions",
         _listed(Target("", LORA[1:], "leak", WITNESS, 0).of(leaks, concept) for concept in CONCEPTS),
         by_training("leak: LoRA that draws it for plain captions"))))


def _listed(shares) -> str:
    return ", ".join(f"{100 * (each.value or 0):.1f} %" for each in shares)


def in_readme(text: str) -> str:
    """The README with its table written anew; it stands between two comments."""
    parts = re.split(r"(<!-- results -->\n)(.*?)(\n<!-- /results -->)", text, flags=re.S)
    if len(parts) != 5:
        raise ValueError("README.md lacks its comments <!-- results --> and <!-- /results -->, once each")
    return "".join((parts[0], parts[1], quoted(), parts[3], parts[4]))


def main() -> None:
    for path, text in ((DOCS / "results.md", page()), (README, in_readme(README.read_text(encoding="utf-8")))):
        print(f"written: {write_whole(path, text)}")


if __name__ == "__main__":
    main()

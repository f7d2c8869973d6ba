"""Mutated weight files for the readers, and what the readers did with them: docs/fuzz-readers.md.

    python quickstart.py run tests/fuzz/fuzz_readers.py [--count 2400] [--seed 0]

A file must load, or be refused with a CheckpointError; while it is read nothing may be run, written or connected to,
and neither memory nor time may run out.  tests/fuzz/test_fuzz_readers.py does the same with some hundred files.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import random
import re
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

import torch  # noqa: E402
from safetensors.torch import save  # noqa: E402

from saferedir_core import CheckpointError, Redirector, RedirectorConfig, load_redirector, save_redirector  # noqa: E402
from saferedir_core.bundle import load_redirectors, save_bundle  # noqa: E402

RECORD = ROOT / "docs" / "fuzz-readers.md"
MEMORY = 1 << 30        # bytes beyond what the program had before
SECONDS = 10.0          # of processor time for one file
NUMBERS = (0, 1, -1, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**53, 2**63 - 1, 2**63,
           2**64 - 1, 1.5, 1e308)
NAMES = ("os\nsystem", "posix\nsystem", "builtins\neval", "builtins\nexec", "builtins\n__import__", "builtins\ngetattr",
         "subprocess\nPopen", "builtins\nbytearray", "builtins\nset", "builtins\nopen", "io\nopen", "shutil\nrmtree",
         "collections\nCounter", "torch\nload", "torch.hub\nload", "torch\nFloatTensor",
         "torch._utils\n_rebuild_sparse_tensor", "torch._utils\n_rebuild_nested_tensor",
         "torch._utils\n_rebuild_qtensor", "torch._utils\n_rebuild_wrapper_subclass",
         "torch._tensor\n_rebuild_from_type_v2", "torch.storage\nUntypedStorage", "torch.jit\nload", "torch\ndevice",
         "numpy.core.multiarray\n_reconstruct", "importlib\nimport_module", "ctypes\nCDLL", "webbrowser\nopen")
PATHS = ("../../outside", "/tmp/outside", "..\\..\\outside", "C:\\outside", "a/../../data.pkl", "\0", "a" * 5000)
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "os.remove", "os.rename",
             "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate", "os.putenv", "subprocess.",
             "socket.", "shutil.", "ctypes.", "webbrowser.", "urllib.", "tempfile.", "pickle.find_class",
             "pty.", "ftplib.", "http.")

IMPORTS = ("antigravity", "webbrowser", "nt", "pty")      # late imports of torch's own are none of the file's doing


# ------------------------------------------------------------------------------------------------ seeds


def seeds() -> dict[str, bytes]:
    """Sound files of every kind the readers take, and some that hold only part of a redirector (they are quick)."""
    torch.manual_seed(0)
    small = RedirectorConfig(prompt_dim=8, tokens=5, rank=2, timestep_dim=8)
    redirector = Redirector(small).eval()
    state = redirector.state_dict()
    part = {key: value for key, value in state.items() if value.numel() < 2000}
    with tempfile.TemporaryDirectory() as folder:
        save_redirector(redirector, Path(folder) / "a.safetensors", {"concept": "test", "threshold": "0.5"})
        other = Redirector(small).eval()
        other.latent_encoder, other.t_encoder = redirector.latent_encoder, redirector.t_encoder
        save_bundle({"a": redirector, "b": other}, Path(folder) / "b.safetensors")
        files = {"whole.safetensors": (Path(folder) / "a.safetensors").read_bytes(),
                 "bundle.safetensors": (Path(folder) / "b.safetensors").read_bytes()}
    header = {"saferedir_format": "1", "saferedir_config": json.dumps({"prompt_dim": 8, "tokens": 5})}
    files["part.safetensors"] = save(part, header)
    files["concepts.safetensors"] = save(
        {f"0.{key}": value for key, value in part.items()},
        {"saferedir_format": "1",
         "saferedir_concepts": json.dumps([{"concept": "a", "config": {"prompt_dim": 8}, "metadata": {"x": "y"}}])})
    for name, content in (("whole", state), ("part", part)):
        for kind, new in (("", True), ("_old", False)):
            out = io.BytesIO()
            torch.save(content, out, _use_new_zipfile_serialization=new)
            files[f"{name}{kind}.pt"] = out.getvalue()
    return files


# ------------------------------------------------------------------------------------------------ mutations


def mutated(content: bytes, kind: str, chance: random.Random) -> tuple[bytes, str]:
    """The file with something done to it, and what."""
    structural = {".safetensors": (header_fields, header_length, header_text),
                  ".pt": (pickle_names, pickle_numbers, pickle_bytes, archive_records, code)}[kind]
    if kind == ".pt" and not content.startswith(b"PK"):
        structural = (pickle_names, pickle_numbers, pickle_bytes, code)
    act = chance.choice((*structural * 2, flips, cut, moved, numbers))
    return act(content, chance), act.__name__


def hot(content: bytes, chance: random.Random) -> int:
    """A position, mostly where the structure is: the first and the last few thousand bytes."""
    place = chance.random()
    if place < 0.5:
        return chance.randrange(min(4096, len(content)) or 1)
    return max(0, len(content) - 1 - chance.randrange(min(8192, len(content)) or 1)) if place < 0.85 else \
        chance.randrange(len(content) or 1)


def flips(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 2, 8, 64))):
        changed[hot(content, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[:chance.choice((0, 1, 7, 8, 9, hot(content, chance), len(content) - 1 - chance.randrange(64)))]


def moved(content: bytes, chance: random.Random) -> bytes:
    """A slice left out, doubled or put elsewhere."""
    start = hot(content, chance)
    piece = content[start:start + chance.choice((1, 4, 32, 1024))]
    to = hot(content, chance)
    return chance.choice((content[:start] + content[start + len(piece):], content[:to] + piece + content[to:],
                          content[:to] + piece + content[to + len(piece):]))


def numbers(content: bytes, chance: random.Random) -> bytes:
    """A number with a meaning to programs, somewhere, in some width."""
    code, at = chance.choice("BHIQ"), hot(content, chance)
    value = int(chance.choice(NUMBERS[:-2])) % (1 << 8 * struct.calcsize(code))
    packed = struct.pack(f"<{code}", value)
    return content[:at] + packed + content[at + len(packed):]


def _header(content: bytes) -> tuple[dict, bytes]:
    length, = struct.unpack_from("<Q", content)
    return json.loads(content[8:8 + length]), content[8 + length:]


def _with_header(header: bytes, rest: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + rest


def header_fields(content: bytes, chance: random.Random) -> bytes:
    """Types, shapes, offsets, names and metadata that no writer would write."""
    header, rest = _header(content)
    for _ in range(chance.choice((1, 1, 3))):
        names = [name for name in header if name != "__metadata__"]
        name = chance.choice(names) if names else "x"
        entry = header.setdefault(name, {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
        metadata = header.setdefault("__metadata__", {})
        what = chance.randrange(8)
        if what == 0 and isinstance(entry, dict):
            entry["dtype"] = chance.choice(("F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64",
                                            "U64", "X", "", None, 3))
        elif what == 1 and isinstance(entry, dict):
            entry["shape"] = [chance.choice(NUMBERS) for _ in range(chance.choice((0, 1, 2, 4, 70)))]
        elif what == 2 and isinstance(entry, dict):
            count = chance.choice((1, 2, 2, 2, 3))
            entry["data_offsets"] = [chance.choice((*NUMBERS, len(rest))) for _ in range(count)]
        elif what == 3:
            other = chance.choice(("", "a" * 10000, "../../outside", "\0", "pos_embed", "0.pos_embed"))
            header[other] = header.pop(name)
        elif what == 4:
            header[name] = chance.choice(([], "x", 3, None, {}, [entry] * 3))
        elif what == 5 and isinstance(metadata, dict):
            key = chance.choice(("saferedir_config", "saferedir_concepts", "saferedir_format", "threshold"))
            metadata[key] = chance.choice((
                "{", "[]", "1", "9", "nan", "inf", "-1", "[" * 5000, "{\"tokens\": 65536, \"prompt_dim\": 65536}",
                "{\"tokens\": 1e999}", "{\"tokens\": -1}", "{\"__class__\": 1}", "\u0000",
                json.dumps([{"concept": "a", "config": {"prompt_dim": 65536}, "metadata": {}}] * 2),
                json.dumps([{"concept": str(n), "config": {}, "metadata": {}} for n in range(200)]), "9" * 5000))
        elif what == 6:
            header["__metadata__"] = chance.choice(([], "x", {"a": 3}, {"a": None}, {"a" * 100000: "b"},
                                                    {"a": "b" * 10**6}))
        else:
            header |= {f"extra.{number}": dict(entry) if isinstance(entry, dict) else entry
                       for number in range(chance.choice((1, 100, 5000)))}
    return _with_header(json.dumps(header).encode(), rest)


def header_length(content: bytes, chance: random.Random) -> bytes:
    value = int(chance.choice((*NUMBERS[:-2], len(content), len(content) - 8, len(content) - 9, 100 << 20))) % (1 << 64)
    return struct.pack("<Q", value) + content[8:]


def header_text(content: bytes, chance: random.Random) -> bytes:
    """JSON that is none, or that is hard to read."""
    header, rest = _header(content)
    text = json.dumps(header)
    deep = "[" * chance.choice((100, 10000, 1000000))
    return _with_header(chance.choice((
        deep.encode(), (text[:-1] + ', "x": ' + deep).encode(), text.replace('"F32"', "NaN").encode(), b"", b"{}",
        text.encode("utf-16"), b"\xff" + text.encode(), (text[:-1] + "," + text[1:]).encode(),
        text.encode() + b" " * 10**6,
        b'{"a":' * 10000 + b"1" + b"}" * 10000)), rest)


def _pickle_of(content: bytes) -> tuple[bytes, object]:
    """The pickle of a .pt, and how to put another in its place."""
    if not content.startswith(b"PK"):
        return content, lambda changed: changed
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in records if name.endswith("data.pkl"))
    return records[name], lambda changed: _archive([*{**records, name: changed}.items()])


def _archive(records: list[tuple[str, bytes]], packed: bool = False) -> bytes:
    out = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", how) as archive:
        warnings.simplefilter("ignore")     # doubled names are what is wanted
        for name, content in records:
            archive.writestr(name.replace("\0", "?"), content)
    return out.getvalue()


def pickle_names(content: bytes, chance: random.Random) -> bytes:
    """A class or function that is looked up becomes another."""
    code, put = _pickle_of(content)
    found = [*re.finditer(rb"c[\w.]+\n\w+\n", code)]
    if found:
        chosen = chance.choice(found)
        code = code[:chosen.start()] + b"c" + chance.choice(NAMES).encode() + b"\n" + code[chosen.end():]
    return put(code)


def pickle_numbers(content: bytes, chance: random.Random) -> bytes:
    """Sizes, strides, offsets and storage lengths become others."""
    code, put = _pickle_of(content)
    found = [*re.finditer(rb"K.|M..|J....", code, re.S)]
    for _ in range(chance.choice((1, 2, 5)) if found else 0):
        chosen = chance.choice(found)
        value = int(chance.choice(NUMBERS[:-2]))
        width = len(chosen[0])
        if chance.random() < 0.5:       # in place: positions of the others stay
            new = chosen[0][:1] + (value % (1 << 8 * (width - 1))).to_bytes(width - 1, "little")
            code = code[:chosen.start()] + new + code[chosen.end():]
        else:
            code = code[:chosen.start()] + b"\x8a\x09" + (value % (1 << 72)).to_bytes(9, "little") + code[chosen.end():]
            break
    return put(code)


def pickle_bytes(content: bytes, chance: random.Random) -> bytes:
    """Instructions that are damaged, doubled, or from other protocols."""
    code, put = _pickle_of(content)
    limit = min(len(code), 4000)
    for _ in range(chance.choice((1, 2, 6))):
        at = chance.randrange(limit)
        new = chance.choice((bytes([chance.randrange(256)]), b"R", b"b", b"\x81", b"0", b"2", b"(", b"h\x00", b"\x93",
                             b"Q", b"\x95" + b"\xff" * 8, b"r\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f",
                             b"X\xff\xff\xff\xff",
                             b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60))))
        code = code[:at] + new + code[at + chance.choice((0, 1, len(new))):]
    return put(code)


def archive_records(content: bytes, chance: random.Random) -> bytes:
    """Records that are missing, doubled, shortened, packed or named to leave the folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    at = chance.randrange(len(records))
    name, data = records[at]
    what = chance.randrange(7)
    if what == 0:
        del records[at]
    elif what == 1:
        records.append((name, flips(data, chance) if data else b"x"))
    elif what == 2:
        records[at] = (name, data[:len(data) // 2])
    elif what == 3:
        records.append((chance.choice(PATHS), data))
    elif what == 4:
        records.append((name.split("/")[0] + chance.choice(("/constants.pkl", "/code/__torch__.py", "/byteorder",
                                                            "/.data/version", "/extra/x")), b"big"))
    elif what == 5:
        return _archive([*records, ("a/zeros", bytes(1 << 22))], packed=True)
    else:
        records += [(f"a/{number}", b"") for number in range(chance.choice((10, 2000)))]
    return _archive(records)


class _Exploit:
    def __init__(self, call: tuple):
        self.call = call

    def __reduce__(self):
        return self.call


def code(content: bytes, chance: random.Random) -> bytes:
    """A pickle that runs something when it is believed."""
    calls = ((os.system, ("echo it ran > it_ran",)), (eval, ("open('it_ran', 'w')",)), (open, ("it_ran", "w")),
             (exec, ("import os",)), (bytearray, (10**11,)), (print, ("it ran",)),
             (__import__, ("antigravity",)), (Counter, ({"a": 10**9},)))
    value = {"pos_embed": _Exploit(chance.choice(calls))}
    protocol = chance.choice((0, 1, 2, 2, 3, 4, 5))
    if not content.startswith(b"PK"):
        plain = pickle.dumps(value, protocol)
        return chance.choice((plain, plain + content))
    _, put = _pickle_of(content)
    return put(pickle.dumps(value, protocol))


# ------------------------------------------------------------------------------------------------ reading


class Watch:
    """Notes what must not happen while a file is read.  An audit hook stays for ever, so it is switched on and off."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self.on:
            return
        if event == "open":
            _, mode, flags = arguments
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (
                isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if writes:
                self.seen.append(f"open {arguments[0]!r}"[:200])
        elif event.startswith(FORBIDDEN) or event == "import" and arguments[0] in IMPORTS:
            self.seen.append(f"{event} {arguments!r}"[:200])

    @contextlib.contextmanager
    def watching(self):
        self.on = True
        try:
            yield
        finally:
            self.on = False


@dataclass
class Tally:
    """loaded, refused: files.  faults: what must not be."""

    loaded: int = 0
    refused: int = 0
    kinds: Counter = field(default_factory=Counter)     # mutation -> files
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0        # seconds of processor time
    memory: int = 0             # bytes, peak beyond the start

    @property
    def files(self) -> int:
        return self.loaded + self.refused + len(self.faults)


def peak_memory() -> int:
    """Bytes this process had resident at most; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def limited_memory():
    """No more address space than there is now and MEMORY; nothing where the system does not offer it."""
    try:
        import resource

        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, OSError):
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


WATCH = Watch()


def fuzz(count: int, seed: int, folder: Path, told=lambda tally: None) -> Tally:
    """Reads so many mutated files; folder: an empty one, for each file in turn."""
    chance, files, tally = random.Random(seed), seeds(), Tally()
    for name, content in files.items():     # what is imported late is imported now, and every seed is sound or partial
        (folder / name).write_bytes(content)
        with contextlib.suppress(CheckpointError):
            load_redirectors(folder / name)
    (folder / "bundle.safetensors").unlink()
    loaded = load_redirector(folder / "whole.safetensors"), load_redirector(folder / "whole.pt")
    assert loaded[0].config == loaded[1].config
    for name in files:
        (folder / name).unlink(missing_ok=True)
    quick, whole = ([name for name in files if name.startswith(which)]
                    for which in (("part", "concepts"), ("whole", "bundle")))
    start = peak_memory()
    with limited_memory(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            name = chance.choice(quick if chance.random() < 0.8 else whole)
            suffix = Path(name).suffix
            content, kind = mutated(files[name], suffix, chance)
            path = folder / f"file{suffix}"
            path.write_bytes(content)
            read_one(path, f"{number}: {kind} of {name}", tally)
            tally.kinds[f"{kind} ({suffix})"] += 1
            if {*os.listdir(folder)} != {path.name}:
                tally.faults.append(f"{number}: {kind} of {name}: left {os.listdir(folder)}")
            path.unlink()
            if number % 100 == 99:
                told(tally)
    tally.memory = peak_memory() - start
    return tally


def read_one(path: Path, what: str, tally: Tally) -> None:
    WATCH.seen = []
    began = time.process_time()
    try:
        with WATCH.watching():
            load_redirectors(path)
        outcome = "loaded"
    except CheckpointError as error:
        outcome = "refused"
        if re.search(r"MemoryError|allocate|not enough memory", str(error)):
            outcome = f"asked for too much memory: {error}"
        elif not str(error).startswith(f"{path}: ") or not str(error).endswith("."):
            outcome = f"an unclear message: {error}"
    except BaseException as error:      # this is what must not come out
        outcome = f"{type(error).__name__}: {error}"
    seconds = time.process_time() - began
    tally.slowest = max(tally.slowest, seconds)
    if WATCH.seen:
        outcome = f"did {WATCH.seen[0]}"
    elif seconds > SECONDS:
        outcome = f"took {seconds:.1f} s"
    if outcome == "loaded":
        tally.loaded += 1
    elif outcome == "refused":
        tally.refused += 1
    else:
        tally.faults.append(f"{what}: {outcome}"[:500])


def page(tally: Tally, seed: int) -> str:
    import platform

    import safetensors

    rows = [f"| {kind.split(' (')[0].replace('_', ' ')} | {kind.split(' (')[1][:-1]} | {count} |"
            for kind, count in sorted(tally.kinds.items())]
    return "\n".join([
        "# What damaged and hostile weight files do to the readers", "",
        "Written in a clone by "
        f"`python quickstart.py run tests/fuzz/fuzz_readers.py --count {tally.files} --seed {seed}` with "
        f"Python {platform.python_version()}, torch {torch.__version__}, safetensors {safetensors.__version__}.", "",
        f"{tally.files} mutated files: {tally.loaded} were harmless and loaded, {tally.refused} were refused with a "
        f"CheckpointError, {len(tally.faults)} did anything else.",
        "While they were read an audit hook watched for programs, sockets, other pickles, and files written or",
        f"removed, and the address space was limited to {MEMORY >> 20} MiB more than before. Memory grew by "
        f"{tally.memory / 2**20:.0f} MiB at most; the slowest file took {tally.slowest:.1f} s of processor time.", "",
        "| what was done to a sound file | kind | files |", "|---|---|---|", *rows]) + "\n"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)

    def told(tally: Tally) -> None:
        print(f"{tally.files} files: {tally.loaded} loaded, {tally.refused} refused, {len(tally.faults)} faults",
              flush=True)

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)        # what a file may write with a relative name lands here
        work = Path(folder) / "files"
        work.mkdir()
        tally = fuzz(given.count, given.seed, work, told)
        if os.listdir(folder) != ["files"]:
            tally.faults.append(f"written: {os.listdir(folder)}")
        os.chdir(ROOT)
    print(*tally.faults[:50], sep="\n")
    if not tally.faults:
        RECORD.write_text(page(tally, given.seed), encoding="utf-8", newline="\n")
        print(f"wrote {RECORD}")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Everything that can go wrong with a download, done to the real client, and what came of it: docs/hub-faults.md.

    python quickstart.py run tests/hub/faults.py          writes the table anew from a run

tests/hub/test_faults.py runs the same and compares.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, Path(__file__).parent):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

import torch  # noqa: E402
from hub_server import HubServer, Request  # noqa: E402

from saferedir.lab.host.server import free_port  # noqa: E402
from saferedir_core import Redirector, RedirectorConfig, load_redirector, save_redirector  # noqa: E402
from saferedir_core.errors import SafeRedirError  # noqa: E402
from saferedir_core.hub import Patience, fetch  # noqa: E402
from saferedir_core.registry import HubSource, Pin, UrlSource, git_blob  # noqa: E402

OTHER_CLIENTS = """\
The oldest client that requirements.txt allows (0.34.0) was put through the same and ends every line alike, with the
right file or none. Three lines it tells otherwise: a connection that is cut is begun again and not resumed, one that is
cut each time is a "connection that failed", and a redirect without end "does not come from a Hub". With 1.33.0 every
line is as below.
"""      # run with that release on PYTHONPATH, in front of the environment's
TABLE = ROOT / "docs" / "hub-faults.md"
REPO = "owner/redirectors"
FILE = "concept.safetensors"    # the final name
# A machine that is busy with other things may be slow without a fault; only where slowness is the fault is it hurried.
CALM = Patience(answer=60.0, silence=300.0, slowest=1e7, attempts=2, wait=0.05, longest=2.0)
HURRIED = replace(CALM, silence=2.0)
PIECE = 10 << 20                # of the client's: what came before is kept when a connection breaks


class Exploit:
    """Unpickling this runs a command."""

    def __reduce__(self):
        return os.system, ("echo it ran > it_ran",)


@dataclass(frozen=True)
class Contents:
    """Files of one small redirector.  large: more than one piece of the client's."""

    plain: bytes
    published: bytes
    large: bytes
    code: bytes
    other: bytes = b"<html>not a redirector</html>" * 1000

    @classmethod
    def made(cls) -> Contents:
        torch.manual_seed(0)
        redirector = Redirector(RedirectorConfig(prompt_dim=8, tokens=5, rank=2, timestep_dim=8)).eval()

        def saved(metadata: dict) -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                save_redirector(redirector, Path(folder) / "a.safetensors", metadata)
                return (Path(folder) / "a.safetensors").read_bytes()

        def pickled(state) -> bytes:
            out = io.BytesIO()
            torch.save(state, out)
            return out.getvalue()

        state = redirector.state_dict()
        return cls(saved({"concept": "test"}), pickled(state),
                   saved({"concept": "test", "notes": "x" * (PIECE - 1000)}),
                   pickle.dumps({"pos_embed": Exploit()}, 2))


@dataclass
class Outcome:
    """What a caller and the folder saw.  left: other files in the folder; asked: requests by method."""

    error: str
    sound: bool         # the file is there and is the redirector that was asked for
    there: bool
    left: list[str]
    asked: dict[str, int]
    extra: str = ""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    says    parts of the error; none when it must end well
    serve   what the repository's file holds: a field of Contents
    arrange what the server does: request -> True when it answered itself
    pin     "right", "none", or a Pin
    """

    name: str
    says: tuple[str, ...] = ()
    serve: str = "plain"
    arrange: Callable[[HubServer, Contents], Callable[[Request], object]] | None = None
    pin: str | Pin = "right"
    source: dict = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    large: bool = True
    present: bool = False
    url: bool = False
    patience: Patience = CALM
    check: Callable[[HubServer, Contents], str] | None = None      # a sentence on what the server saw
    run: Callable | None = None                                     # in place of one plain call of fetch


# ------------------------------------------------------------------------------------------------ what goes wrong


def refusing(status: int, code: str = "", times: int = 10**9, **headers: str):
    """The first so many requests for the file are refused."""
    def arrange(hub, contents):
        left = [times]

        def behave(request: Request):
            if request.is_file and left[0] > 0:
                left[0] -= 1
                return request.refuse(status, code, **headers)
            return None
        return behave
    return arrange


def on_body(act: Callable[[Request, Contents], object], times: int = 10**9):
    """What happens when the file's bytes are asked for."""
    def arrange(hub, contents):
        left = [times]

        def behave(request: Request):
            if request.wants_body and (request.path.startswith("/cdn/") or not hub.large) and left[0] > 0:
                left[0] -= 1
                return act(request, contents)
            return None
        return behave
    return arrange


def on_question(act: Callable[[Request], object]):
    """What happens when the file is asked about."""
    return lambda hub, contents: lambda request: act(request) if request.command == "HEAD" and request.is_file else None


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def resumed(hub: HubServer, contents: Contents) -> str:
    ranges = [headers["range"] for headers in hub.asked("GET", "/cdn/") + hub.asked("GET") if "range" in headers]
    return f"went on with a Range {['once', 'twice'][len(ranges) - 1]}" if ranges else "began again"


def no_token_elsewhere(hub: HubServer, contents: Contents) -> str:
    sent = ["authorization" in headers for headers in (hub.asked("HEAD")[0], hub.asked("GET", "/cdn/")[0])]
    return f"token sent to the Hub: {'yes' if sent[0] else 'no'}, to the other host: {'yes' if sent[1] else 'no'}"


def came_through(hub: HubServer, contents: Contents) -> str:
    return f"asked for {sorted({urlsplit(path).netloc for _, path, _ in hub.requests})}"


def two_at_once(call: Callable, hub: HubServer) -> str:
    """Two threads ask for the same file."""
    errors = []

    def ask():
        errors.append(call())

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return "".join(errors)


def cancelled(call: Callable, hub: HubServer) -> str:
    class Cancelled(SafeRedirError):
        pass

    def stop(done, total):
        if hub.asked("GET", "/cdn/"):
            raise Cancelled("Cancelled by the person.")
    return call(progress=stop)


def in_a_small_space(limit: int):
    """The same call in a process of its own that may write files of so many bytes: the system refuses more."""
    return lambda call, hub: in_processes(call, 1, limit)


def by_itself(call: Callable, hub: HubServer) -> str:
    """In a process of its own: the client asks for proxies once, when it is first used."""
    return in_processes(call, 1)


def in_processes(call: Callable, count: int, limit: int = 0) -> str:
    """What they say.  limit: bytes of a file that each may write; 0: any number."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen(
            [sys.executable, __file__, "--child", str(limit)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUTF8": "1"})) for _ in range(count)]
        for process in processes:
            process.stdin.write(json.dumps(call.arguments))
            process.stdin.close()
            process.stdin = None
        said = []
        for process in processes:
            out, errors = process.communicate(timeout=1800)
            if process.returncode not in (0, 3):
                raise RuntimeError(errors[-2000:])
            said.append(out.strip())
        return "".join(said)


MB = 1_000_000
FAULTS = (
    Fault("first download, from a CDN on another host", environ={"HF_TOKEN": "hf_test"}, check=no_token_elsewhere),
    Fault("first download, a small file from the Hub itself", large=False),
    Fault("first download of a published .pt, kept as it came", serve="published",
          source={"filename": "ckpt/best_model.pt"}),
    Fault("first download by branch, without a pin: the Hub's own hash is checked", pin="none"),
    Fault("pinned by git blob id", pin="blob"),
    Fault("pinned by the git blob id of its LFS pointer", pin="pointer"),
    Fault("the file is there already; the Hub is in trouble", present=True, arrange=refusing(500)),
    Fault("connection cut after 10.4 MB of 15 MB", serve="large",
          arrange=on_body(lambda request, contents: request.send(contents.large, cut=PIECE + 400_000), times=1),
          check=resumed),
    Fault("connection cut each time, at once", ("too slow", "Try again later"),
          arrange=on_body(lambda request, contents: request.hang_up()), patience=HURRIED),
    Fault("401, no such repository or a private one", ("access was refused (401)", "private", "hf auth login"),
          source={"repo_id": "owner/nothing"}),
    Fault("401, the login is no longer valid", ("access was refused (401)", "login"), arrange=refusing(401)),
    Fault("403, terms to accept", ("accept terms", "hf auth login"), arrange=refusing(403, "GatedRepo")),
    Fault("404, no such file", ("no such file", "Check filename"), source={"filename": "gone.safetensors"}),
    Fault("404, no such revision", ("no such revision",), source={"revision": "a" * 40}),
    Fault("429, for good", ("too many requests (429)", "Wait a while"), arrange=refusing(429)),
    Fault("429 once, Retry-After: 1", arrange=refusing(429, times=1, Retry_After="1")),
    Fault("429, Retry-After: 3600", ("again in 3600 seconds",), arrange=refusing(429, Retry_After="3600")),
    Fault("500, for good", ("in trouble (500)", "Try again later"), arrange=refusing(500)),
    Fault("503 once", arrange=refusing(503, times=1)),
    Fault("502 for the bytes", ("in trouble (502)",), arrange=on_body(lambda request, _: request.refuse(502))),
    Fault("other bytes than pinned, told by the Hub", ("has the SHA-256", "not the file that was meant"),
          pin=Pin(sha256="0" * 64)),
    Fault("other bytes than the Hub says", ("its SHA-256 is", "do not use it"), pin="none",
          arrange=on_body(lambda request, contents: request.send(flipped(contents.plain)))),
    Fault("other bytes than pinned, by git blob id", ("its git blob is", "do not use it"), pin=Pin(git_blob="0" * 40)),
    Fault("other size than pinned", ("expected 12345", "check name and revision"),
          pin=Pin(size=12345, sha256="0" * 64)),
    Fault("fewer bytes than announced", ("another size than announced",),
          arrange=on_body(lambda request, contents: request.send(contents.plain[:-7]))),
    Fault("bytes without end", ("bytes came; expected at most",),
          arrange=on_body(lambda request, contents: request.send(contents.plain, length=False, endless=True))),
    Fault("redirect to another host with another file", ("another size than announced",),
          arrange=on_body(lambda request, contents: request.send(contents.other))),
    Fault("redirect to a login page", ("does not come from a Hub", "login page"),
          arrange=on_question(lambda request: request.answer(302, Location=request.hub.elsewhere + "/login"))),
    Fault("redirect without end", ("redirected without end",),
          arrange=on_question(lambda request: request.answer(302, Location=request.hub.url + request.path))),
    Fault("no answer", ("no answer in time",), arrange=on_question(lambda request: request.silence()),
          patience=replace(CALM, answer=1.0)),
    Fault("silence in mid-file", ("too slow",),
          arrange=on_body(lambda request, contents: request.silence()), patience=HURRIED),
    Fault("slow drip, a byte every 20 ms", ("too slow", "bytes per second"),
          arrange=on_body(lambda request, contents: request.send(contents.plain, drip=0.02)), patience=HURRIED),
    Fault("nobody listens at the address", ("the connection failed", "Check the network"),
          environ={"HF_ENDPOINT": "closed"}),
    Fault("HF_ENDPOINT with a slash at its end", environ={"HF_ENDPOINT": "hub/"}),
    Fault("HF_ENDPOINT without http", ("HF_ENDPOINT is 'hub.invalid'", "Correct it"),
          environ={"HF_ENDPOINT": "hub.invalid"}),
    Fault("through a proxy", large=False, run=by_itself, check=came_through,
          environ={"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": "hub", "http_proxy": "hub"}),
    Fault("a proxy that does not answer", ("the connection failed", "HTTPS_PROXY"), run=by_itself,
          environ={"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": "closed", "http_proxy": "closed"}),
    Fault("a token with letters that none has", ("cannot be written", "Check HF_TOKEN"),
          environ={"HF_TOKEN": "hf_\u0142"}),
    Fault("HF_HUB_OFFLINE, the file is not there", ("HF_HUB_OFFLINE forbids",), environ={"HF_HUB_OFFLINE": "1"}),
    Fault("HF_HUB_OFFLINE, the file is there", present=True, environ={"HF_HUB_OFFLINE": "1"}),
    Fault("two graphs ask at once", run=two_at_once),
    Fault("Cancel in mid-file", ("Cancelled",), run=cancelled,
          arrange=on_body(lambda request, contents: request.send(contents.plain, drip=0.02))),
    Fault("full disk while downloading", ("no space left", "Free some space"), run=in_a_small_space(2 * MB)),
    Fault("a file of another kind", ("is not kept", "not a complete safetensors file"), serve="other"),
    Fault("a .pt that holds code", ("is not kept", "holds code"), serve="code", source={"filename": "model.pt"}),
    Fault("plain address: first download", url=True),
    Fault("plain address: connection cut twice", url=True, check=resumed,
          arrange=lambda hub, contents: cutting(hub, contents, 2)),
    Fault("plain address: 404", ("the server answered 404",), url=True, arrange=refusing(404)),
    Fault("plain address: other bytes than pinned", ("its SHA-256 is",), url=True, pin=Pin(sha256="0" * 64)),
    Fault("plain address: redirect to a host without https", ("expected an https address",), url=True,
          arrange=lambda hub, contents: lambda request: request.answer(302, Location="http://example.invalid/a.pt")),
)


def cutting(hub: HubServer, contents: Contents, times: int):
    """The first so many answers end a third of the way on."""
    count = [0]

    def behave(request: Request):
        count[0] += 1
        if count[0] <= times:
            return request.send(contents.plain, cut=count[0] * len(contents.plain) // 3)
        return request.send(contents.plain)
    return behave


# ------------------------------------------------------------------------------------------------ one run


class Call:
    """One fetch as a graph would make it; returns the error's text, or nothing."""

    def __init__(self, file: str, source: HubSource | UrlSource, pin: Pin, folder: Path, patience: Patience):
        self.file, self.source, self.pin, self.folder, self.patience = file, source, pin, folder, patience

    @property
    def arguments(self) -> dict:
        return {"source": vars(self.source), "pin": vars(self.pin), "folder": str(self.folder),
                "patience": vars(self.patience)}

    def __call__(self, progress=lambda done, total: None) -> str:
        try:
            fetch(self.file, [self.source], self.pin, self.folder, patience=self.patience, progress=progress)
        except SafeRedirError as error:
            return str(error)
        return ""


def pin_of(fault: Fault, content: bytes) -> Pin:
    if isinstance(fault.pin, Pin):
        return fault.pin
    digest = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()
    return {"right": Pin(len(content), digest), "none": Pin(), "blob": Pin(git_blob=git_blob(content)),
            "pointer": Pin(git_blob=git_blob(pointer))}[fault.pin]


def suffer(fault: Fault, contents: Contents, folder: Path) -> Outcome:
    """Makes the fault happen and says what came of it.  folder: an empty one."""
    content = getattr(contents, fault.serve)
    with HubServer(large=fault.large) as hub, contextlib.ExitStack() as stack:
        name = fault.source.get("filename", FILE)
        commit = hub.put(REPO, {name if name != "gone.safetensors" else FILE: content})
        if fault.arrange:
            hub.behave = fault.arrange(hub, contents)
        endpoint = fault.environ.get("HF_ENDPOINT", hub.url)
        places = {"closed": f"http://127.0.0.1:{free_port()}", "hub": hub.url, "hub/": f"{hub.url}/"}
        environ = {name: places.get(value, value)
                   for name, value in {"HF_TOKEN": "", **fault.environ, "HF_ENDPOINT": endpoint}.items()}
        stack.enter_context(changed(os.environ, environ))
        revision = "main" if fault.pin == "none" else commit
        source = (UrlSource(f"{hub.url}/{REPO}/resolve/main/{FILE}") if fault.url else
                  HubSource(**{"repo_id": REPO, "filename": FILE, "revision": revision, **fault.source}))
        if fault.url and not fault.arrange:
            hub.large = False
        if fault.present:
            (folder / FILE).write_bytes(contents.plain)
        call = Call(FILE, source, pin_of(fault, content), folder, fault.patience)
        error = fault.run(call, hub) if fault.run else call()
        final = (folder / FILE).with_suffix(source.suffix)
        there = final.exists()
        sound = (there and load_redirector(final).config.prompt_dim == 8
                 and final.read_bytes() == (contents.plain if fault.present else content))
        asked: dict[str, int] = {}
        for method, _, _ in hub.requests:
            asked[method] = asked.get(method, 0) + 1
        return Outcome(error, sound, there, sorted(path.name for path in folder.iterdir() if path != final), asked,
                       fault.check(hub, contents) if fault.check and not error else "")


@contextlib.contextmanager
def changed(environ, values: dict[str, str]):
    """The environment with other values for a while; an empty one takes a variable out."""
    before = {name: environ.get(name) for name in values}
    for name, value in values.items():
        environ.pop(name, None)
        if value:
            environ[name] = value
    try:
        yield
    finally:
        for name, value in before.items():
            environ.pop(name, None)
            if value is not None:
                environ[name] = value


def child(limit: int) -> int:
    """What `in_a_small_space` runs; exit code 3 with the error's text on standard output."""
    given = json.loads(sys.stdin.read())
    if limit:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    call = Call(FILE, HubSource(**given["source"]), Pin(**given["pin"]), Path(given["folder"]),
                Patience(**given["patience"]))
    text = call()
    print(text)
    return 3 if text else 0


def can_limit_files() -> bool:
    try:
        import resource
    except ImportError:
        return False
    return hasattr(resource, "RLIMIT_FSIZE")


# ------------------------------------------------------------------------------------------------ the table


def row(fault: Fault, outcome: Outcome) -> str:
    """A line of the table, the same whatever port, folder and temporary names a run had."""
    file = "whole and checked" if outcome.sound else "THERE, NOT SOUND" if outcome.there else "not there"
    left = ", ".join(outcome.left) or "nothing"
    reads = told(outcome.error) if outcome.error else "(no error)"
    if outcome.extra:
        reads += f" Server: {outcome.extra}."
    return f"| {fault.name} | {file} | {left} | {reads} |"


def told(error: str) -> str:
    """The error without what differs from run to run; the last line, the way by hand, is the same for all."""
    text = " ".join(error.split("\nOr get ")[0].split())
    for pattern, instead in (
            (r"http://(127\.0\.0\.1|localhost):\d+", "http://HUB"), (r"revision [0-9a-f]{40}", "revision COMMIT"),
            (re.escape(tempfile.gettempdir()) + r"[^\s;,]*", "FOLDER"), (r"\b[0-9a-f]{64}\b", "HASH"),
            (r"\b[0-9a-f]{40}\b", "HASH"), (r"\(0 bytes of .*?, then", "(0 bytes, then"),
            (r"\b\d{5,8} bytes", "N bytes"),
            (r"more than \d+ bytes|expected \d{6,}\b|size \d{6,}\b", lambda found: re.sub(r"\d+", "N", found[0])),
            (r"\(\w+: .*?\); expected the file", "(...); expected the file"), (r"\|", "/"),
            (r"announced \(.*?\);", "announced;"), (r"no answer in time \(\w+\)", "no answer in time"),
            (r"\d+\.\d MB", "N MB")):
        text = re.sub(pattern, instead, text)
    return text


def page(rows: list[str], left_out: list[str]) -> str:
    import huggingface_hub

    lines = [
        "# What goes wrong with a download, and what then happens", "",
        "Written in a clone by `python quickstart.py run tests/hub/faults.py`; the tests run the same and compare.",
        f"Each line was done to the real client (huggingface_hub {huggingface_hub.__version__}) and a Hub-like server "
        "of our own.",
        "*File* is what lies under the final name afterwards, *left* what else is in the folder. Each error closes",
        "with the way by hand (\"Or get ... some other way and save it as ...\"), left out here.", "", OTHER_CLIENTS,
        "| what happens | file | left | what the person reads |", "|---|---|---|---|", *rows]
    if left_out:
        lines += ["", f"Not run here: {'; '.join(left_out)}."]
    return "\n".join(lines) + "\n"


def main() -> int:
    logging.disable(logging.WARNING)
    contents, rows, left_out, bad = Contents.made(), [], [], 0
    for fault in FAULTS:
        if fault.name.startswith("full disk") and not can_limit_files():
            left_out.append(f"{fault.name} (this system cannot limit the size of files)")
            continue
        with tempfile.TemporaryDirectory() as folder:
            outcome = suffer(fault, contents, Path(folder))
        good = (outcome.sound and not outcome.error) if not fault.says else (
            not outcome.there and all(part in outcome.error for part in fault.says))
        bad += not good
        rows.append(row(fault, outcome))
        print(("ok    " if good else "WRONG ") + rows[-1], outcome.asked, flush=True)
        if not good:
            print("      ", outcome.error, flush=True)
    if not bad:
        TABLE.write_text(page(rows, left_out), encoding="utf-8", newline="\n")
        print(f"wrote {TABLE}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(child(int(sys.argv[2])) if sys.argv[1:2] == ["--child"] else main())

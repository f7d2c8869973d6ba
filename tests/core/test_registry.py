import hashlib
import json

import pytest

from saferedir_core import CheckpointError, ConfigError, PolicyConfig
from saferedir_core.registry import (
    HubSource,
    Pin,
    RegistryEntry,
    UrlSource,
    entry_from_json,
    entry_to_json,
    git_blob,
    read_registry,
)

CONTENT = b"some weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "a920535c56688a0486dac157c71ae5b499efd7d3"
ENTRY = {"concept": "stripes", "architecture": "demo", "license": "MIT", "file": "stripes.safetensors"}
FULL = {**ENTRY, "size": 12, "sha256": SHA256, "git_blob": git_blob(CONTENT),
        "source": {"repo_id": "me/mine", "filename": "ckpt/best.pt", "revision": COMMIT},
        "mirrors": [{"url": "https://example.invalid/best.pt"}], "settings": {"alpha_scale": 1.5, "interval": 2},
        "evaluation": {"from": "a paper", "figures": [{"name": "FSR", "value": 99.5, "unit": "%", "low": 98,
                                                       "high": 100, "count": 300}]}}


class TestPin:
    def test_the_right_bytes_pass(self):
        Pin(12, SHA256, git_blob(CONTENT)).check(CONTENT, "x")
        Pin().check(CONTENT, "x")

    def test_a_git_blob_id_is_what_git_computes(self):
        # `printf 'hello\n' | git hash-object --stdin`
        assert git_blob(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"

    def test_the_blob_of_the_lfs_pointer_pins_the_content_as_well(self):
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA256}\nsize {len(CONTENT)}\n".encode()
        Pin(git_blob=git_blob(pointer)).check(CONTENT, "x")
        with pytest.raises(CheckpointError, match="its git blob is"):
            Pin(git_blob=git_blob(pointer)).check(CONTENT + b".", "x")

    @pytest.mark.parametrize("pin, cause", [(Pin(size=11), "12 bytes; expected 11"), (Pin(sha256="0" * 64), "SHA-256"),
                                            (Pin(git_blob="0" * 40), "git blob"),
                                            (Pin(sha256=SHA256, git_blob="0" * 40), "git blob"),
                                            (Pin(sha256="0" * 64, git_blob=git_blob(CONTENT)), "SHA-256")])
    def test_other_bytes_are_refused(self, pin, cause):
        with pytest.raises(CheckpointError, match=f"the file: .*{cause}"):
            pin.check(CONTENT, "the file")

    @pytest.mark.parametrize("wrong", [{"size": 0}, {"size": -1}, {"size": True}, {"size": "9"}, {"size": 1 << 60},
                                       {"sha256": "abc"}, {"sha256": SHA256.upper()}, {"git_blob": SHA256},
                                       {"git_blob": 3}])
    def test_what_is_no_hash_and_no_size_is_refused(self, wrong):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is"):
            Pin(**wrong)

    def test_a_size_alone_is_no_pin(self):
        assert not Pin(size=3) and Pin(sha256=SHA256) and Pin(git_blob="0" * 40)


class TestSources:
    @pytest.mark.parametrize("wrong", [
        {"repo_id": "../x"}, {"repo_id": "a/b/c"}, {"repo_id": "https://x/y"}, {"repo_id": ""}, {"repo_id": 3},
        {"filename": "../up.pt"}, {"filename": "/abs.pt"}, {"filename": "a\\b.pt"}, {"filename": "a.ckpt"},
        {"filename": "a//b.pt"},
        {"filename": "x/../b.pt"}, {"filename": "aux.pt"}, {"filename": "con/a.pt"},
        {"filename": "a./b.pt"}, {"filename": "a\0.pt"}, {"filename": "C:a.pt"}, {"filename": "a/" * 300 + "b.pt"},
        {"filename": "//host/share/a.pt"}, {"repo_id": "a/.."}, {"repo_id": "a/b\0"}, {"revision": "a\nb"},
        {"filename": "a.pt?x=1"}, {"filename": None}, {"revision": ""}, {"revision": "a b"},
        {"revision": "../main"}, {"revision": "-x"}, {"revision": "a#b"}])
    def test_a_hub_source_that_is_no_file_of_a_repository_is_refused(self, wrong):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is"):
            HubSource(**{"repo_id": "a/b", "filename": "c.pt", **wrong})

    @pytest.mark.parametrize("url", ["http://example.invalid/a.pt", "file:///etc/a.pt", "ftp://x/a.pt", "a.pt", "", 3,
                                     "https:///a.pt", "https://x/a.zip", "https://x/a b.pt", "https://[/a.pt"])
    def test_an_address_without_https_is_refused(self, url):
        with pytest.raises(ConfigError, match="url is"):
            UrlSource(url)

    def test_the_suffix_is_that_of_the_path(self):
        assert UrlSource("https://x/a/b.pt?download=1").suffix == ".pt"
        assert HubSource("a/b", "c.d/e.safetensors").suffix == ".safetensors"


class TestEntries:
    def test_an_entry_comes_back_as_it_was_written(self, tmp_path):
        entry = entry_from_json("mine", FULL)
        assert entry.sources == (HubSource("me/mine", "ckpt/best.pt", COMMIT),
                                 UrlSource("https://example.invalid/best.pt"))
        assert entry.settings == PolicyConfig(alpha_scale=1.5, interval=2)
        assert entry.evaluation == FULL["evaluation"]
        assert entry_from_json("mine", entry_to_json(entry)) == entry
        listed = {"version": 1, "redirectors": {"mine": entry_to_json(entry)}}
        (tmp_path / "registry.json").write_text(json.dumps(listed))
        assert read_registry(tmp_path / "registry.json") == {"mine": entry}

    @pytest.mark.parametrize("change, cause", [
        ({"file": "../x.safetensors"}, "file is"), ({"file": "x.pt"}, "file is"),
        ({"file": "CON.safetensors"}, "file is"), ({"file": "aux .x.safetensors"}, "file is"),
        ({"file": "a..safetensors"}, "file is"), ({"file": "a .safetensors"}, "file is"),
        ({"file": "C:a.safetensors"}, "file is"), ({"file": "\u00e9" * 100 + ".safetensors"}, "file is"),
        ({"file": None}, "file is"), ({"concept": ""}, "concept is"), ({"license": 3}, "license is"),
        ({"colour": "red"}, "has 'colour'"), ({"source": "me/mine"}, "source is a str"),
        ({"source": {"repo_id": "a/b"}}, "filename"), ({"source": {"url": "http://x.invalid/a.pt"}}, "url is"),
        ({"source": {"url": "https://x.invalid/a.pt"}}, "no sha256"), ({"mirrors": {}}, "expected a list"),
        ({"source": {"repo_id": "a/b", "filename": "a.pt", "revision": "main"}}, "a hash, or a commit of 40"),
        ({"settings": {"alpha_scale": 99}}, "alpha_scale"), ({"settings": {"speed": 1}}, "has 'speed'"),
        ({"settings": []}, "settings is a list"), ({"evaluation": []}, "evaluation is a list"),
        ({"evaluation": {"score": 1}}, "has 'score'"), ({"size": "12"}, "size is")])
    def test_an_entry_that_makes_no_sense_names_file_entry_and_remedy(self, change, cause, tmp_path):
        path = tmp_path / "registry.json"
        path.write_text(json.dumps({"version": 1, "redirectors": {"mine": {**ENTRY, **change}}}))
        with pytest.raises(ConfigError, match=cause) as caught:
            read_registry(path)
        assert str(caught.value).startswith(f"{path}: 'mine': ") and str(caught.value).endswith("Correct this entry.")

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"version": 2, "redirectors": {}}', '{"version": 1}',
                                      '{"version": 1, "redirectors": []}', "[" * 100000])
    def test_a_file_that_is_no_registry_is_refused(self, text, tmp_path):
        (tmp_path / "registry.json").write_text(text)
        with pytest.raises(ConfigError, match="registry.json"):
            read_registry(tmp_path / "registry.json")

    def test_a_missing_file_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_registry(tmp_path / "registry.json")

    @pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
    def test_a_byte_order_mark_and_line_ends_of_windows_are_read(self, coding, tmp_path):
        text = json.dumps({"version": 1, "redirectors": {"mine": ENTRY}}, indent=1).replace("\n", "\r\n")
        (tmp_path / "registry.json").write_bytes(text.encode(coding))
        assert [*read_registry(tmp_path / "registry.json")] == ["mine"]

    @pytest.mark.parametrize("content, line", [(b'{"version": 1,\n "redirectors": {},\n}', 3),
                                               (b'{"version": 1,\n"\xe9"}', 2)])
    def test_a_trailing_comma_and_another_coding_are_refused_with_the_line(self, content, line, tmp_path):
        (tmp_path / "registry.json").write_bytes(content)
        with pytest.raises(ConfigError, match=f"registry.json: cannot be read .*line {line}"):
            read_registry(tmp_path / "registry.json")

    def test_an_entry_without_a_source_needs_no_pin(self):
        assert RegistryEntry("a", "b", "c", "d.safetensors", "MIT").sources == ()

#!/usr/bin/env python3
"""tools/tokenize_hf.py without the package tokenizers: in its place stands one whose ids are bytes,
so that its token files must be those that it has read, to the byte."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tokenize_hf  # noqa: E402

PACKAGE = """
import json
class Encoding:
    def __init__(self, ids): self.ids = ids
class Tokenizer:
    @staticmethod
    def from_file(path):
        made = Tokenizer()
        made.vocab = json.load(open(path))["model"]["vocab"]
        return made
    def token_to_id(self, token): return self.vocab.get(token)
    def id_to_token(self, id): return {i: t for t, i in self.vocab.items()}[id]
    def encode_batch(self, texts, add_special_tokens):
        assert self.encode_special_tokens and not add_special_tokens
        return [Encoding(list(text.encode())) for text in texts]
"""


def byte_level(vocab):
    return {"model": {"vocab": vocab}, "decoder": {"type": "ByteLevel"}, "pre_tokenizer": None,
            "added_tokens": [{"id": 256, "content": "<|endoftext|>", "special": True}]}


def check_tables():
    characters = {c: b for c, b in tokenize_hf.byte_of_character().items()}
    assert sorted(characters.values()) == list(range(256)) and characters["\u0120"] == 0x20
    table = tokenize_hf.bytes_of_tokens(
        {"model": {"vocab": {"\u0120the": 0, "\u00c3": 1, "<e>": 2, "caf\u00c3\u00a9": 4}},
         "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]},
         "added_tokens": [{"id": 2, "content": "<e>", "special": True},
                          {"id": 5, "content": "<tool>", "special": False}]})
    assert table == [b" the", b"\xc3", b"", b"", "caf\u00e9".encode(), b"<tool>"], table
    table = tokenize_hf.bytes_of_tokens(
        {"model": {"vocab": [["<unk>", 0], ["<0x0A>", 0], ["\u2581the\u2581\u00e9", -1.5]]},
         "decoder": {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
         "added_tokens": [{"id": 0, "content": "<unk>", "special": True}]})
    assert table == [b"", b"\n", " the \u00e9".encode()], table


def main():
    check_tables()
    fomoe_data = pathlib.Path(sys.argv[1]).resolve() / "fomoe-data"
    with tempfile.TemporaryDirectory() as name:
        home = pathlib.Path(name)
        (home / "tokenizers.py").write_text(PACKAGE)
        (home / "theirs").mkdir()
        vocab = dict(tokenize_hf.byte_of_character(), **{"<|endoftext|>": 256})
        (home / "theirs/tokenizer.json").write_text(json.dumps(byte_level(vocab)))
        (home / "text").write_text("".join(f"Stra\u00dfe {i}\n<|endoftext|>\n\n" for i in range(200)))

        def run(*words, code=0):
            done = subprocess.run(words, cwd=home, capture_output=True, text=True,
                                  env=dict(os.environ, PYTHONPATH=name))
            assert done.returncode == code, (words, done)
            return done.stdout + done.stderr

        tool = [sys.executable, str(ROOT / "tools/tokenize_hf.py"), "--tokenizer", "theirs",
                "--save", "kept/hf"]
        made = [fomoe_data, "tokenize", "--split-on", "blank-line", "--out"]
        run(*made, "bytes", "text")
        said = run(*tool, "--from", "bytes", "--out", "out/own")
        assert "out/own.valid: " in said and "does not give back" not in said, said
        for kind in (".train.bin", ".train.idx", ".valid.bin", ".valid.idx"):
            assert (home / f"out/own{kind}").read_bytes() == (home / f"bytes{kind}").read_bytes()
        assert "exists; --force" in run(*tool, "--from", "bytes", "--out", "out/own", code=3)
        # fomoe-data finds the tokenizer by the card, and gets the same text from it.
        shown = run(fomoe_data, "inspect", "out/own", "--json")
        for part in json.loads(shown):
            assert part["tokenizer"]["kind"] == "hugging_face", part
            assert part["texts"][0]["text"].startswith("Stra\u00dfe "), part
        run(fomoe_data, "tokenize", "--out", "back", "out/own")
        for kind in (".train.bin", ".valid.idx"):
            assert (home / f"back{kind}").read_bytes() == (home / f"bytes{kind}").read_bytes()
        assert "only Python encodes" in run(fomoe_data, "encode", "--tokenizer", "kept/hf", "text",
                                            code=2)
        assert "there is no nothing.train.idx" in run(*tool, "--from", "nothing", "--out", "x",
                                                      code=3)
        # Text that is no UTF-8 is told.
        (home / "broken").write_bytes(b"a\xff\n\nb\n\n" * 40)
        run(*made, "broken_bytes", "broken")
        assert "does not give back" in run(*tool, "--from", "broken_bytes", "--out", "x")
        # Another tokenizer does not go into the same directory.
        (home / "theirs/tokenizer.json").write_text(json.dumps(byte_level(dict(vocab, more=257))))
        assert "is of another tokenizer" in run(*tool, code=3)


main()

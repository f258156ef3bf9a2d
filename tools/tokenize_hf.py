#!/usr/bin/env python3
"""Makes token files with a Hugging Face tokenizer.

    tools/tokenize_hf.py --tokenizer DIR --save data/their-tokenizer \\
        --from data/kernel --out data/kernel-theirs

takes the text of token files that fomoe-data tokenize --tokenizer bytes has made, PREFIX.train and
PREFIX.valid, and writes the same documents with the ids of the tokenizer. --save makes the directory
that model.tokenizer names: the tokenizer's files and token_table.json, the bytes of each id, by
which fomoe counts and decodes. Without --from only that directory is made.

Needs tokenizers of PyPI and libxxhash. Its threads are as many as RAYON_NUM_THREADS says, else all.
"""
import argparse
import array
import ctypes
import json
import mmap
import os
import pathlib
import shutil
import struct
import sys
import time

TABLE = "token_table.json"
FILES = ["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "vocab.json",
         "merges.txt", "tokenizer.model", "added_tokens.json"]
ENDS = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"]
MAGIC = b"MMIDIDX\0\0"
U16, I32 = 8, 4  # codes of the types in an index
HELD = 16 << 20  # bytes of text in memory at once


def die(message, code=3):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def xxh3(data):
    library = ctypes.CDLL("libxxhash.so.0")
    library.XXH3_64bits.restype = ctypes.c_uint64
    library.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    return f"{library.XXH3_64bits(data, len(data)):016x}"


def byte_of_character():
    """GPT-2's way to write bytes: a printable one is itself, the others follow from 256 on."""
    table, following = {}, 256
    for byte in range(256):
        printable = 0x21 <= byte <= 0x7e or (byte >= 0xa1 and byte != 0xad)
        table[chr(byte if printable else following)] = byte
        following += not printable
    return table


def kinds(part):
    """All values of "type" in a part of tokenizer.json."""
    if isinstance(part, dict):
        return {part.get("type")} | set().union(*map(kinds, part.values()), set())
    if isinstance(part, list):
        return set().union(*map(kinds, part), set())
    return set()


def bytes_of_tokens(definition):
    """The bytes of every id of a tokenizer.json; none for special tokens and ids without a token."""
    vocab = definition["model"]["vocab"]
    if isinstance(vocab, list):  # of unigram: [token, score]
        vocab = {token: i for i, (token, _) in enumerate(vocab)}
    byte_level = "ByteLevel" in kinds([definition.get("pre_tokenizer"), definition.get("decoder")])
    spaces = "\u2581" in json.dumps([definition.get(key) for key in
                                     ("normalizer", "pre_tokenizer", "decoder")],
                                    ensure_ascii=False)
    if not byte_level and not spaces:
        die("the tokenizer is neither byte-level nor like SentencePiece: its tokens do not say which "
            "bytes they stand for")
    characters = byte_of_character()

    def bytes_of(token):
        if byte_level and all(c in characters for c in token):
            return bytes(characters[c] for c in token)
        if not byte_level and len(token) == 6 and token.startswith("<0x") and token[5] == ">":
            return bytes([int(token[3:5], 16)])
        return (token if byte_level else token.replace("\u2581", " ")).encode()

    found = {i: bytes_of(token) for token, i in vocab.items()}
    for token in definition.get("added_tokens", []):
        found[token["id"]] = b"" if token["special"] else token["content"].encode()
    return [found.get(i, b"") for i in range(max(found) + 1)]


def end_of_document(name, source, tokenizer):
    if name is None:
        config = source / "tokenizer_config.json"
        eos = json.loads(config.read_text()).get("eos_token") if config.exists() else None
        name = eos["content"] if isinstance(eos, dict) else eos
    names = ENDS if name is None else [name]
    ids = [i for i in map(tokenizer.token_to_id, names) if i is not None]
    if not ids:
        die(f"the tokenizer has no token {' or '.join(names)} to end documents; name one with "
            "--end-of-document", 2)
    return ids[0]


def save(source, folder, tokenizer, end_name):
    """The directory that model.tokenizer names. Returns its table."""
    definition = (source / "tokenizer.json").read_bytes()
    tokens = bytes_of_tokens(json.loads(definition))
    end = end_of_document(end_name, source, tokenizer)
    tokens[end] = b""
    table = {"kind": "hugging_face", "end_of_document": end,
             "tokenizer_json_xxh3": xxh3(definition), "tokens": [t.hex() for t in tokens]}
    text = json.dumps(table, indent=0) + "\n"
    if (folder / TABLE).exists() and (folder / TABLE).read_text() != text:
        die(f"{folder / TABLE} is of another tokenizer; name another directory with --save")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ["tokenizer.json"] + FILES:
        if (source / name).exists() and not (folder / name).exists():
            shutil.copyfile(source / name, folder / name)
    if not (folder / "tokenizer_config.json").exists():
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tokenizer.id_to_token(end)}
        (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n")
    (folder / TABLE).write_text(text)
    return {"end": end, "tokens": tokens, "xxh3": xxh3(text.encode())}


def documents_of(prefix):
    """The text of every document of token files of bytes."""
    index = pathlib.Path(prefix + ".idx").read_bytes()
    if len(index) < 34 or index[:9] != MAGIC:
        die(f"{prefix}.idx: is not a Megatron index")
    version, code, n, bounds = struct.unpack_from("<QBQQ", index, 9)
    if version != 1 or code != U16 or bounds != n + 1 or len(index) != 34 + 12 * n + 8 * bounds:
        die(f"{prefix}.idx: was not made by fomoe-data tokenize --tokenizer bytes")
    lengths = struct.unpack_from(f"<{n}i", index, 34)
    size = os.path.getsize(prefix + ".bin")
    if 2 * sum(lengths) != size:
        die(f"{prefix}.bin: has {size} bytes where {prefix}.idx announces {2 * sum(lengths)}")
    if not size:
        return
    with open(prefix + ".bin", "rb") as file, mmap.mmap(file.fileno(), 0,
                                                       access=mmap.ACCESS_READ) as ids:
        begin = 0
        for length in lengths:
            # The id of a byte is its first half; the last id ends the document.
            yield ids[begin:begin + 2 * (length - 1):2]
            begin += 2 * length


def check_source(prefix):
    card = pathlib.Path(prefix + ".tokenizer.json")
    if card.exists() and json.loads(card.read_text()).get("kind") != "bytes":
        die(f"{prefix}: --from takes token files that fomoe-data tokenize --tokenizer bytes has made")
    if not pathlib.Path(prefix + ".train.idx").exists():
        die(f"there is no {prefix}.train.idx; fomoe-data tokenize --tokenizer bytes makes it")
    return [part for part in (".train", ".valid") if pathlib.Path(prefix + part + ".idx").exists()]


class Progress:
    def __init__(self, total):
        self.total, self.done, self.begun = total, 0, time.monotonic()

    def add(self, n):
        self.done += n
        if sys.stderr.isatty():
            seconds = time.monotonic() - self.begun
            print(f"\r{100 * self.done / self.total:.0f}% | {self.done / 1e6:.1f} of "
                  f"{self.total / 1e6:.1f} MB | {self.done / 1e6 / seconds:.1f} MB/s\033[K",
                  end="" if self.done < self.total else "\r\033[K", file=sys.stderr, flush=True)


def batches(texts):
    held, size = [], 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= HELD:
            yield held
            held, size = [], 0
    if held:
        yield held


def write_part(source, out, tokenizer, table, progress):
    """Writes OUT.bin.new and OUT.idx.new. Returns documents, tokens, and documents that the
    tokenizer does not give back."""
    small = len(table["tokens"]) <= 1 << 16
    lengths, changed = array.array("i"), 0
    with open(out + ".bin.new", "wb") as file:
        for texts in batches(documents_of(source)):
            encoded = tokenizer.encode_batch([text.decode("utf-8", "replace") for text in texts],
                                             add_special_tokens=False)
            for text, found in zip(texts, encoded):
                ids = array.array("H" if small else "i", found.ids)
                changed += b"".join(map(table["tokens"].__getitem__, ids)) != text
                ids.append(table["end"])
                lengths.append(len(ids))
                file.write(ids.tobytes())
            progress.add(sum(map(len, texts)) + len(texts))
    n, size = len(lengths), 2 if small else 4
    pointers, at = array.array("q"), 0
    for length in lengths:
        pointers.append(at)
        at += size * length
    with open(out + ".idx.new", "wb") as file:
        file.write(MAGIC + struct.pack("<QBQQ", 1, U16 if small else I32, n, n + 1))
        for numbers in (lengths, pointers, array.array("q", range(n + 1))):
            file.write(numbers.tobytes())
    return n, sum(lengths), changed


def tokenize(source, out, folder, tokenizer, table, force):
    parts = check_source(source)
    both = (".train", ".valid")  # with one card
    for part in both:
        if pathlib.Path(out + part + ".bin").exists() and not force:
            die(f"{out}{part}.bin exists; --force replaces it, or give another --out")
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(sum(os.path.getsize(source + part + ".bin") // 2 for part in parts))
    found = [write_part(source + part, out + part, tokenizer, table, progress) for part in parts]
    # No index stands beside the card of another tokenizer at any time.
    for part in both:
        pathlib.Path(out + part + ".idx").unlink(missing_ok=True)
        if part not in parts:
            pathlib.Path(out + part + ".bin").unlink(missing_ok=True)
    place = os.path.relpath(folder, pathlib.Path(out).absolute().parent)
    card = {"kind": "hugging_face", "size": len(table["tokens"]), "end_of_document": table["end"],
            "xxh3": table["xxh3"], "path": place}
    pathlib.Path(out + ".tokenizer.json").write_text(json.dumps(card, indent=2) + "\n")
    for part, (documents, tokens, changed) in zip(parts, found):
        for kind in (".bin", ".idx"):
            os.replace(out + part + kind + ".new", out + part + kind)
        print(f"{out}{part}: {documents} documents, {tokens} tokens")
        if changed:
            print(f"  the tokenizer does not give back the bytes of {changed} of them")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json, or a directory with it")
    parser.add_argument("--save", required=True, metavar="DIR", help="what model.tokenizer names")
    parser.add_argument("--end-of-document", metavar="TOKEN",
                        help="the token behind each document; eos_token of tokenizer_config.json")
    parser.add_argument("--from", dest="source", metavar="PREFIX", help="token files of bytes")
    parser.add_argument("--out", metavar="PREFIX", help="of the files that are written")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    args = parser.parse_args()
    if (args.source is None) != (args.out is None):
        parser.error("--from and --out go together")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        die("needs the Python package tokenizers: pip install tokenizers", 1)
    source = pathlib.Path(args.tokenizer)
    if source.is_file():
        source = source.parent
    if not (source / "tokenizer.json").exists():
        die(f"there is no {source / 'tokenizer.json'}; transformers writes it: "
            "AutoTokenizer.from_pretrained(NAME).save_pretrained(DIR)")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # the names of special tokens in a text are text
    folder = pathlib.Path(args.save)
    table = save(source, folder, tokenizer, args.end_of_document)
    print(f"{folder}: hugging_face of {len(table['tokens'])} ids, xxh3 {table['xxh3']}")
    if args.source:
        tokenize(args.source, args.out, folder.absolute(), tokenizer, table, args.force)


if __name__ == "__main__":
    main()

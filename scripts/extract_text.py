#!/usr/bin/env python3
"""Text out of data files of Debian packages, to stdout: extract_text.py KIND FILE

austen      the novels in an R lazy-load data base (r-cran-janeaustenr)
bible       the King James Bible (bible-kjv-text)
gcide       the entries of a dictd dictionary (dict-gcide)
statements  a Metamath data base without its proofs (metamath-databases)
"""
import gzip
import re
import struct
import sys
import zlib


def r_chunks(data):
    """The objects of an R lazy-load data base: a big-endian size, then a zlib stream."""
    at = 0
    while at + 4 < len(data):
        size = struct.unpack_from('>I', data, at)[0]
        stream = zlib.decompressobj()
        chunk = stream.decompress(data[at + 4:])
        if len(chunk) != size:
            raise ValueError(f'a chunk of {len(chunk)} bytes where {size} were announced')
        yield chunk
        at = len(data) - len(stream.unused_data)


# Type words of a string in ASCII, in UTF-8 and without either mark.
R_STRING = {0x00040009, 0x00008009, 0x00000009}


def r_strings(chunk):
    """The strings of a serialized R object: type word, length, bytes."""
    at = 0
    while at + 8 <= len(chunk):
        word, length = struct.unpack_from('>Ii', chunk, at)
        if word in R_STRING and 0 <= length <= len(chunk) - at - 8:
            yield chunk[at + 8:at + 8 + length]
            at += 8 + length
        else:
            at += 1


def austen(data):
    for chunk in r_chunks(data):
        for line in r_strings(chunk):
            yield line + b'\n'


def lzw(data, most_bits=16):
    """The codes of compress(1), without its header."""
    table = [bytes([i]) for i in range(256)] + [b'']
    pieces, last, at, bits = [], None, 0, 9
    while at < len(data):
        # Eight codes of the same size are stored together.
        group = data[at:at + bits]
        word = int.from_bytes(group, 'little')
        at += bits
        for i in range(len(group) * 8 // bits):
            code = word >> (i * bits) & ((1 << bits) - 1)
            if code == 256:  # start again
                del table[257:]
                last, bits = None, 9
                break
            if last is None:
                piece = table[code]
            else:
                piece = table[code] if code < len(table) else last + last[:1]
                if len(table) < 1 << most_bits:
                    table.append(last + piece[:1])
            pieces.append(piece)
            last = piece
            if len(table) >= 1 << bits and bits < most_bits:
                bits += 1
                break
    return b''.join(pieces)


def bible(data):
    if not data.startswith(b'EC02Compressed Data File'):
        raise ValueError('not a bible-kjv data file')
    # A table of window bounds, the compress(1) header, then one LZW stream a window.
    count = struct.unpack_from('>I', data, 0x58)[0]
    bounds = struct.unpack_from(f'>{count + 1}I', data, 0x5c)
    text = b''.join(lzw(data[a:b]) for a, b in zip(bounds, bounds[1:]))
    chapter = None
    for line in text.split(b'\n'):
        verse = re.match(rb'([A-Za-z0-9]+) ?(\d+):(\d+) ?(.*)', line)
        if not verse:
            continue
        if verse.group(1, 2) != chapter:
            chapter = verse.group(1, 2)
            yield b'\nCHAPTER %s %s\n\n' % chapter
        yield b'%s %s\n' % (verse.group(3), verse.group(4))


def gcide(data):
    yield data


def statements(data):
    # The first part is about the file itself: notes, contributors, the log of changes.
    part = b'\n$(\n#*#*'
    data = data[data.index(part, data.index(part) + 1):]
    yield re.sub(rb'\$=.*?\$\.', b'$.', data, flags=re.DOTALL)


KINDS = {'austen': austen, 'bible': bible, 'gcide': gcide, 'statements': statements}


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in KINDS:
        sys.exit(__doc__)
    with open(sys.argv[2], 'rb') as file:
        data = file.read()
    if data[:2] == b'\x1f\x8b':
        data = gzip.decompress(data)
    for piece in KINDS[sys.argv[1]](data):
        sys.stdout.buffer.write(piece)


if __name__ == '__main__':
    main()

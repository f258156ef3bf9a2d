"""Headless Chromium: the page as the browser makes it, what it logs, and how it looks."""
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import tempfile
import zlib


def chromium(page, *options, timeout=240):
    """What it writes to stdout and what pages log; fails unless it ends well."""
    program = shutil.which("chromium")
    assert program, "chromium is missing: scripts/install_packages.sh chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # As root its sandbox does not start; the page is our own.
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu",
                   "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
                   "--disable-background-networking", f"--user-data-dir={profile}",
                   "--enable-logging=stderr", "--virtual-time-budget=5000", *options,
                   pathlib.Path(page).resolve().as_uri()]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   start_new_session=True)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            try:  # its helpers may live on
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    err = err.decode(errors="replace")
    assert process.returncode == 0, err
    return out.decode(), [line for line in err.splitlines() if ":CONSOLE" in line]


class Picture:
    """The pixels of a PNG of 8 bits a channel, as Chromium writes them."""
    def __init__(self, path):
        data = pathlib.Path(path).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n", path
        at, packed = 8, b""
        while at < len(data):
            length, kind = struct.unpack(">I4s", data[at:at + 8])
            body = data[at + 8:at + 8 + length]
            if kind == b"IHDR":
                self.width, self.height, depth, colour, _, _, interlaced = \
                    struct.unpack(">IIBBBBB", body)
                assert depth == 8 and colour in (2, 6) and not interlaced
                self.size = 3 if colour == 2 else 4
            elif kind == b"IDAT":
                packed += body
            at += 12 + length
        self.rows = self.unfiltered(zlib.decompress(packed))

    def unfiltered(self, data):
        stride, size, rows = self.width * self.size, self.size, []
        before = bytearray(stride)
        for y in range(self.height):
            begin = y * (stride + 1)
            kind, row = data[begin], bytearray(data[begin + 1:begin + 1 + stride])
            if kind == 1:
                for i in range(size, stride):
                    row[i] = (row[i] + row[i - size]) & 255
            elif kind == 2:
                row = bytearray((a + b) & 255 for a, b in zip(row, before))
            elif kind == 3:
                for i in range(stride):
                    left = row[i - size] if i >= size else 0
                    row[i] = (row[i] + (left + before[i]) // 2) & 255
            elif kind == 4:
                for i in range(stride):
                    a, c = (row[i - size], before[i - size]) if i >= size else (0, 0)
                    b = before[i]
                    near = sorted((abs(b - c), abs(a - c), abs(a + b - 2 * c)))[0]
                    row[i] = (row[i] + (a if abs(b - c) == near else
                                        b if abs(a - c) == near else c)) & 255
            rows.append(row)
            before = row
        return rows

    def colours(self, top=0, bottom=None):
        """How many pixels each colour has in a band of rows."""
        counts = {}
        for row in self.rows[top:bottom]:
            for i in range(0, len(row), self.size):
                colour = bytes(row[i:i + 3])
                counts[colour] = counts.get(colour, 0) + 1
        return counts

"""What the kernels of libfomoe_cuda.so have to move: formulas of their tiles, and exceptions."""
import collections
import math
import re

# Ops whose kernels read and write each row once.
STREAMING = {
    "activate", "activate_backward", "adamw", "balance", "cast", "clip_scale", "combine",
    "dispatch_plan", "embedding", "embedding_backward", "permute", "rms_norm", "rms_norm_backward",
    "rope", "rope_backward", "router", "router_backward", "sum", "sum_squares",
}

COLUMNS = 128  # of a tile of the grouped matmuls
PLAIN = 64     # rows and columns of a tile of plain_matmul


class Tile:
    """Sizes of a case and template arguments of a kernel."""

    def __init__(self, header, arguments):
        self.sizes, self.arguments = header["sizes"], arguments
        self.size = 2 if header["dtype"] == "bf16" else 4

    def __getattr__(self, name):
        return self.sizes[name]

    @property
    def M(self):
        return sum(self.rows)

    @property
    def U(self):
        return self.matrices

    def row_tiles(self, rows):
        """Rows of each tile of each expert."""
        return [min(rows, count - at) for count in self.rows for at in range(0, count, rows)]

    def row_product(self, rows, depth, columns):
        tiles = math.ceil(columns / COLUMNS)
        return sum(tiles * m + min(tiles * COLUMNS, columns) for m in self.row_tiles(rows)) * depth


def expert_hidden(t):
    span = COLUMNS // t.U
    tiles = math.ceil(t.F / span)
    read = sum(tiles * m + t.U * t.F for m in t.row_tiles(int(t.arguments[1]))) * t.D
    return ("sum over row tiles of (F / span rows + U F) D size + M (U F + F) size, span = 128 / U",
            (read + t.M * (t.U + 1) * t.F) * t.size)


def multiply_rows(t):
    depth = t.F if t.arguments[2].endswith("0") else t.U * t.F
    read = t.row_product(int(t.arguments[1]), depth, t.D)
    return ("sum over row tiles of (D / 128 rows + D) depth size + 4 M D, depth = F or U F",
            read * t.size + 4 * t.M * t.D)


def expert_dhidden(t):
    read = t.row_product(int(t.arguments[1]), t.D, t.F)
    return ("sum over row tiles of (F / 128 rows + F) D size + M (2 U F + F) size + 4 M F / 128",
            (read + t.M * (2 * t.U + 1) * t.F) * t.size + 4 * t.M * math.ceil(t.F / COLUMNS))


def expert_dweights(t):
    rows = 128 if t.arguments[0] == "bf16" else 64
    total = 0
    for m, n in ((t.U * t.F, t.D), (t.D, t.F)):
        tiles = math.ceil(m / rows) * math.ceil(n / COLUMNS)
        total += t.M * (math.ceil(n / COLUMNS) * m + math.ceil(m / rows) * n) * t.size
        total += sum(1 for r in t.rows if r) * 2 * 4 * m * n
        total += 4 * t.M * tiles  # the rows' tokens
    return ("sum over both (m, n) of M (n / 128 m + m / rows n) size + 8 experts m n + 4 M tiles, "
            "rows = 128 in bf16, 64 in f32", total)


def sum_rows(t):
    return ("4 M D + N D size + 4 N K", 4 * t.M * t.D + t.N * t.D * t.size + 4 * t.N * t.K)


def causal(t, tile, step=1):
    """Keys up to the end of each query's tile, summed over tiles."""
    return sum(math.ceil(min(at + tile, t.T) / step) * step for at in range(0, t.T, tile))


def attend(t):
    width = int(t.arguments[1])
    rows = 128 if width <= 128 else 64
    head = (2 * t.T + 2 * causal(t, rows)) * t.head_size * t.size + 4 * t.T
    return ("per head and sequence: (2 T + 2 keys) Dh size + 4 T; keys: sum over tiles of 128 queries "
            "(64 for heads beyond 128) of the keys up to the tile's end", head * t.heads * t.sequences)


def attend_cache(t):
    return ("per head: (2 keys + 2 N) Dh size; keys: sum over rows of the places up to the row's own",
            t.heads * (2 * t.keys + 2 * t.N) * t.head_size * t.size)


def prepare(t):
    return ("per head and token: 2 Dh size + 12",
            t.sequences * t.T * t.heads * (2 * t.head_size * t.size + 12))


def differentiate_keys(t):
    bf16, width = t.arguments[0] == "bf16", int(t.arguments[1])
    rows = 128 if bf16 and width <= 64 else 32 if not bf16 and width > 128 else 64
    written = (t.arguments[2] == "true") + (t.arguments[3] == "true")
    queries = sum(t.T - at for at in range(0, t.T, rows)) * (t.heads // t.kv_heads)
    head = (2 * t.T + written * t.T + 2 * queries) * t.head_size * t.size + 8 * queries
    return ("per key head and sequence: (4 T + 2 queries) Dh size + 8 queries; queries: sum over tiles "
            "of keys (128 in bf16 for heads up to 64, else 64) of the queries from the tile on, of "
            "all its heads", head * t.kv_heads * t.sequences)


def differentiate_queries(t):
    bf16, width = t.arguments[0] == "bf16", int(t.arguments[1])
    rows = 128 if bf16 and width <= 96 else 32 if not bf16 and width > 128 else 64
    head = (3 * t.T + 2 * causal(t, rows)) * t.head_size * t.size + 8 * t.T
    return ("per head and sequence: (3 T + 2 keys) Dh size + 8 T; keys as in attend, tiles of 128 "
            "queries in bf16 for heads up to 96, else 64", head * t.heads * t.sequences)


def plain(m, n, k, size, out, launches=1):
    tiles = math.ceil(m / PLAIN) * math.ceil(n / PLAIN)
    return tiles * 2 * PLAIN * k * size + m * n * out


def plain_forward(t):
    return ("m / 64 n / 64 (64 + 64) k size + m n size", plain(t.N, t.O, t.I, t.size, t.size))


def plain_backward(t):
    dx = plain(t.N, t.I, t.O, t.size, t.size)
    dweight = plain(t.O, t.I, t.N, t.size, 2 * 4)
    if t.size == 4:  # one kernel for both
        return ("as forward for dx, and with 8 m n for dweight", dx + dweight)
    return ("as forward for dx, and with 8 m n for dweight",
            dweight if t.arguments[1] == "float" else dx)


def cross_entropy(t):
    kept = 28 * int(t.arguments[2])
    return ("N V (4 + size) + 12 N + 4 N max(0, V - kept), kept = 28 threads, in registers",
            t.N * (t.V * (4 + t.size) + 12 + 4 * max(0, t.V - kept)))


# By name of the kernel, or by op and name.
FORMULAS = {
    "attend": attend,
    "attend_cache": attend_cache,
    "prepare": prepare,
    "differentiate_keys": differentiate_keys,
    "differentiate_queries": differentiate_queries,
    "expert_hidden": expert_hidden,
    "expert_dhidden": expert_dhidden,
    "expert_dweights": expert_dweights,
    "multiply_rows": multiply_rows,
    "cross_entropy": cross_entropy,
    ("experts_forward", "sum_rows"): sum_rows,
    ("experts_backward", "sum_rows"): sum_rows,
    ("linear", "plain_matmul"): plain_forward,
    ("linear_backward", "plain_matmul"): plain_backward,
}


class Excess(collections.namedtuple("Excess", "kind op kernel where bound reason")):
    """op, kernel, where: regular expressions; `where` is about source lines, or cases."""

    def fits(self, kind, op, kernel, where):
        return (kind == self.kind and re.fullmatch(self.op, op) and re.search(self.kernel, kernel)
                and re.search(self.where, where))

    def __str__(self):
        about = " ".join(x for x in (self.op, self.kernel, self.where) if x)
        return f"{self.kind} of {about}: up to {self.bound} x. {self.reason}"


EXCEPTIONS = [
    Excess("moved", "clip_scale", "", "", 4.8, "Three numbers, a sector each: 96 bytes a step."),
    Excess("moved", "balance", "", "", 1.4,
           "Both launches read the counts: 35 KB more for 64 sequences, of which one with 2048 tokens "
           "and rows of 1024 bf16 has 4 MB at each norm."),
    Excess("sectors", "router", "sum_statistics", r"router\.cu", 1.2,
           "Two numbers of each sequence go to tensors of their own, a sector each."),
    Excess("sectors", "dispatch_plan", "place_tokens", r"permute\.cu", 1.15,
           "Ragged: where the rows of 32 tokens begin depends on the routing."),
    Excess("banks", "dispatch_plan", "place_tokens", r"permute\.cu", 1.5,
           "Choices of those tokens of 32 that go to a destination: which, depends on the routing."),
    Excess("sectors", "embedding_backward", "_words|place_tokens", "", 6.7,
           "Tokens are sorted by word, so that neighbours write to places all over: 105 bytes a token, "
           "a fortieth of the op's bytes here and less with longer rows."),
    Excess("sectors", "experts_forward|experts_backward", "invert|place_choices|sum_dgate",
           "", 3.9, "Choices are sorted by expert, so that neighbours write to places all over; less "
           "than a two-hundredth of the op's bytes."),
]

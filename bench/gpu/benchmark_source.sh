#!/usr/bin/env bash
# benchmark_source.sh FOLDER: puts the source of Google Benchmark into FOLDER, from the source packages of Debian or Ubuntu,
# whose binary packages have no static library. apt's own lists and settings are left as they are.
set -euo pipefail
folder=$1
[ -f "$folder/CMakeLists.txt" ] && exit 0
command -v apt-get >/dev/null || {
  echo "there is no apt-get" >&2
  exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/parts" "$work/lists/partial"
# The machine's own sources, of source packages.
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  if [ -f "$list" ]; then sed 's/^deb[[:space:]]/deb-src /' "$list" >"$work/parts/${list##*/}.list"; fi
done
for list in /etc/apt/sources.list.d/*.sources; do
  if [ -f "$list" ]; then sed 's/^Types:.*/Types: deb-src/' "$list" >"$work/parts/${list##*/}"; fi
done
apt=(apt-get -q -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$work/parts" -o "Dir::State::lists=$work/lists"
  -o APT::Sandbox::User=root)
cd "$work"
"${apt[@]}" update
"${apt[@]}" source --download-only benchmark
rm -rf "$folder.new"
mkdir -p "$folder.new"
tar -xf benchmark_*.orig.tar.* -C "$folder.new" --strip-components=1
mv "$folder.new" "$folder"

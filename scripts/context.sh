#!/usr/bin/env bash
# Copies what .dockerignore lets into the images' build: context.sh FOLDER. What is in the folder
# already and has not changed stays as it is.
#
# Of Docker's rules it knows those that the file uses, and refuses others: first `*`, then `!NAME` of
# the top folder, then `**/PATTERN` for what stays outside wherever it is.
set -euo pipefail
cd "$(dirname "$0")/.."

to=$1
names=() without=()
first=yes
while IFS= read -r line || [ -n "$line" ]; do
    known=no
    case $line in
        '' | '#'*) continue ;;
        '*') [ "$first" = no ] || known=yes ;;
        !*/* | !*[*?[]* | '**/'*/*) ;;
        !*) if [ ${#without[@]} -eq 0 ]; then known=yes && names+=("${line#!}"); fi ;;
        '**/'*) known=yes && without+=("--exclude=${line#'**/'}") ;;
    esac
    if [ "$known" = no ] || { [ "$first" = yes ] && [ "$line" != '*' ]; }; then
        echo "context.sh: no rule for .dockerignore's line $line" >&2
        exit 1
    fi
    first=no
done < .dockerignore

new=$to.new
rm -rf "$new"
mkdir -p "$new"
# Times are kept, so that cargo builds again only what has changed.
tar -c "${without[@]}" -- "${names[@]}" | tar -x -C "$new"
rm -rf "$to"
mv "$new" "$to"

#!/usr/bin/env bash
# Compares docs/ with the code: each condition reason has its row in troubleshooting.md and each metric in metrics.md, and no row is
# obsolete; each annotation of ours is explained; the targets of links between documents exist.
#
# shellcheck disable=SC2016 # Backquotes in patterns are Markdown's.
set -euo pipefail

cd "$(dirname "$0")/.."
failures=0

complain() {
  failures=$((failures + 1))
  echo "check-docs: $*" >&2
}

# The variants of the enum Reason in a file.
reasons_in() {
  awk '/^pub enum Reason \{/ { inside = 1; next } inside && /^\}/ { exit } inside && /^    [A-Z][A-Za-z]*,$/ { gsub(/[ ,]/, ""); print }' "$1"
}

# compare WHAT FILE CODE DOCS: two sorted lists, each a name a line.
compare() {
  local name
  while read -r name; do
    [ -z "$name" ] || complain "$1 $name is in the code and has no row in $2"
  done < <(comm -23 <(echo "$3") <(echo "$4"))
  while read -r name; do
    [ -z "$name" ] || complain "$1 $name has a row in $2 and is not in the code"
  done < <(comm -13 <(echo "$3") <(echo "$4"))
}

# at_least COUNT WHAT LIST: a list that is too short means that the notation in the code has changed, not that everything fits.
at_least() {
  if [ "$(grep -c . <<<"$3")" -lt "$1" ]; then
    complain "fewer than $1 $2 were found in the code: teach hack/check-docs.sh where they are"
  fi
}

# The texts in the list of reasons of a Machine's conditions.
controller_reasons="$(sed -nE 's/^    [A-Z][A-Za-z]* = "([A-Za-z]+)",$/\1/p' controller/src/machine/reason.rs | sort -u)"
at_least 20 "reasons of the controller" "$controller_reasons"
vm_reasons="$(reasons_in shared/src/kubevirt/root_cause/mod.rs | sort -u)"
at_least 10 "reasons of a VM's state" "$vm_reasons"
# Rows of the tables between the headings "Conditions of a Machine" and the next.
documented="$(awk '/^## / { inside = ($0 == "## Conditions of a Machine") } inside' docs/troubleshooting.md |
  sed -nE 's/^\| `([A-Za-z]+)` \|.*/\1/p' | sort -u)"
compare "the reason" docs/troubleshooting.md "$(printf '%s\n' "$controller_reasons" "$vm_reasons" | sort -u)" "$documented"

for server in controller webhook; do
  metrics="$(grep -ohE '"machinist_[a-z_]+"' -r "$server/src" | tr -d '"' | sort -u)"
  at_least 3 "metrics of the $server" "$metrics"
done
metrics="$(grep -ohE '"machinist_[a-z_]+"' -r controller/src webhook/src infra/src certs/src | tr -d '"' | sort -u)"
documented="$(sed -nE 's/^\| `(machinist_[a-z_]+)` \|.*/\1/p' docs/metrics.md | sort -u)"
compare "the metric" docs/metrics.md "$metrics" "$documented"

names="$(grep -ohE '"machinist\.dev/[a-z-]+"' shared/src/api/names.rs | tr -d '"' | sort -u)"
at_least 5 "labels and annotations of ours" "$names"
while read -r name; do
  grep -qF "\`$name\`" docs/manifest.md || complain "$name of shared/src/api/names.rs is not in docs/manifest.md"
done <<<"$names"

# Markdown links to files, and to headings of them.
anchors() {
  grep -E '^#+ ' "$1" | sed -E 's/^#+ //' | tr '[:upper:]' '[:lower:]' | sed -E 's/[^a-z0-9 _-]//g; s/ /-/g'
}
for document in *.md docs/*.md docs/decisions/*.md; do
  while read -r link; do
    file="${link%%#*}"
    target="$document"
    [ -z "$file" ] || target="$(dirname "$document")/$file"
    if [ ! -e "$target" ]; then
      complain "$document links to $link, which is not there"
    elif [ "$link" != "$file" ] && ! anchors "$target" | grep -qxF "${link#*#}"; then
      complain "$document links to $link, and there is no such heading"
    fi
  done < <(grep -oE '\]\([^)]+\)' "$document" | sed -E 's/^\]\(|\)$//g' | grep -vE '^[a-z]+:' || true)
done

if [ "$failures" -ne 0 ]; then
  echo "check-docs: $failures complaints" >&2
  exit 1
fi
echo "check-docs: $(grep -c . <<<"$controller_reasons"$'\n'"$vm_reasons") reasons, $(grep -c . <<<"$metrics") metrics, names and links are as documented"

#!/usr/bin/env bash
# Prints where the time of `make test` went, from the records of its stages and cases in target/timings.
# Usage: hack/timings.sh IDLE, the share of the processors that was idle, in percent
set -euo pipefail

cd "$(dirname "$0")/../target/timings"
echo "--- seconds of each stage"
sort -rn stages.tsv
if [ -e cases.tsv ]; then
  echo "--- the 20 slowest cases: seconds, of these waiting for a bed, where the bed is from"
  sort -rn cases.tsv | head -n 20
  echo "--- $(wc -l <cases.tsv) cases on beds: $(cut -f3 cases.tsv | sort | uniq -c | awk '{ $1 = $1 ""; print }' | paste -sd, | sed 's/,/, /g')"
fi
if [ -e control-planes.tsv ]; then
  echo "--- started: $(wc -l <beds.tsv) beds, $(wc -l <control-planes.tsv) control planes"
fi
echo "--- processors idle: $1 %"

#!/usr/bin/env bash
# Builds the book of the documents into target/book, and checks its links. The first run builds mdBook of the version below into
# target/tools.
#
# The documents link to each other, to examples and to the chart by their paths in the repository. So the book is built from a copy
# with the same paths. docs/SUMMARY.md lists its pages.
set -euo pipefail

cd "$(dirname "$0")/.."
version=0.5.4
mdbook="target/tools/mdbook-$version/bin/mdbook"

if [ ! -x "$mdbook" ]; then
  echo "book: building mdBook $version"
  # One job at low priority, little optimized: the book is small, and other builds go first.
  CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-1}" CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
    nice -n 19 cargo install mdbook --version "$version" --locked --no-default-features --features search \
    --root "target/tools/mdbook-$version" --target-dir target/tools/mdbook-build
  rm -rf target/tools/mdbook-build
fi

staged=target/book-src
rm -rf "$staged" target/book
for path in *.md LICENSE docs examples charts hack; do
  mkdir -p "$staged/$(dirname "$path")"
  cp -R "$path" "$staged/$(dirname "$path")"
done
# Its links are relative to docs/.
sed -E 's#\]\(\.\./#](#; t; s#\]\(#](docs/#' "$staged/docs/SUMMARY.md" >"$staged/SUMMARY.md"
rm "$staged/docs/SUMMARY.md"
# mdBook names a README index. Folders and code are not pages of the book.
find "$staged" -name README.md -execdir mv {} index.md \;
find "$staged" -name '*.md' -exec sed -i -E \
  -e 's#(\]\(([^)]*/)?)README\.md#\1index.md#g' \
  -e 's#\]\((docs/)?decisions\)#](\1architecture.md\#decisions-on-record)#g' \
  -e 's#\]\((\.\./)?examples\)#](\1examples/kubevirt-machinedeployment.yaml)#g' \
  -e 's#\[([^]]*)\]\((\.\./)*tests/[^)]*\)#\1#g' {} +

"$mdbook" build
python3 hack/check-book.py target/book

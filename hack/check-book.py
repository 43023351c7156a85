#!/usr/bin/env python3
"""Checks that the target of every link and picture within a folder of HTML pages exists: check-book.py FOLDER."""

import html.parser
import pathlib
import sys
import urllib.parse

ROOT = pathlib.Path(sys.argv[1]).resolve()


class Page(html.parser.HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src", "srcset") and value:
                self.links.append(value)


pages = {path: Page(path) for path in ROOT.rglob("*.html")}
complaints = set()
for path, page in pages.items():
    # One page of all pages, whose relative links mdBook rewrites.
    if path.name in ("print.html", "404.html", "toc.html"):
        continue
    for link in page.links:
        url = urllib.parse.urlsplit(link)
        if url.scheme or url.netloc:
            continue
        target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
        if not target.is_file():
            complaints.add(f"{path.relative_to(ROOT)}: {link} does not exist")
        elif url.fragment and target in pages and urllib.parse.unquote(url.fragment) not in pages[target].ids:
            complaints.add(f"{path.relative_to(ROOT)}: {link}: there is no such heading")
for complaint in sorted(complaints):
    print(f"check-book: {complaint}", file=sys.stderr)
if len(pages) < 30:
    sys.exit(f"check-book: only {len(pages)} pages in {ROOT}")
if complaints:
    sys.exit(f"check-book: {len(complaints)} links have no target")
print(f"check-book: the targets of all links of {len(pages)} pages exist")

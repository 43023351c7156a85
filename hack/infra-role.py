#!/usr/bin/env python3
"""Prints examples/infra-rbac.yaml for another namespace, and for a user that exists.

    hack/infra-role.py NAMESPACE [USER]

With USER, the bindings name that user, like system:serviceaccount:NS:NAME, and no ServiceAccount is created.
"""

import re
import sys
from pathlib import Path

namespace, *user = sys.argv[1:]
text = (Path(__file__).resolve().parent.parent / "examples/infra-rbac.yaml").read_text()
text = text.replace("machinist-infra", namespace)
if user:
    documents = text.split("---\n")
    text = "---\n".join(document for document in documents if "\nkind: ServiceAccount\n" not in f"\n{document}")
    subject = f'subjects:\n  - kind: User\n    name: "{user[0]}"\n    apiGroup: rbac.authorization.k8s.io\n'
    text = re.sub(r"subjects:\n(?:  .*\n)+", lambda _: subject, text)
print(text, end="")

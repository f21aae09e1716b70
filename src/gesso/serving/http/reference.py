"""The file docs/openapi.json: python -m gesso.serving.http.reference >docs/openapi.json"""

import json
import sys

from gesso.serving.http.app import bare_app
from gesso.serving.http.openapi import document


def text() -> str:
    """The file."""
    return json.dumps(document(bare_app()), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())

"""The file docs/openapi.json: python -m gesso.server.reference >docs/openapi.json"""

import json
import sys

from gesso.api.openapi import document
from gesso.server.app import bare_app


def text() -> str:
    """The file."""
    return json.dumps(document(bare_app()), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())

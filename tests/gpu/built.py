"""The executable of a target, from what `cargo --message-format json` prints."""

import json
import sys

lines = [json.loads(line) for line in sys.stdin if line.startswith("{")]
found = [line["executable"] for line in lines
         if line.get("executable") and line["target"]["name"] == sys.argv[1]]
print(found[0] if found else sys.exit(f"cargo built no {sys.argv[1]}"))

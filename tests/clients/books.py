"""What a served run recorded must be whole: `gemba ledger RUN --json` on stdin."""

import json
import sys

ledger = json.load(sys.stdin)
assert ledger["balanced"] is True, ledger
assert ledger["status"] == "complete", ledger["status"]
for commodity in ledger["commodities"]:
    assert commodity["residual"] == 0, commodity
    share = commodity["unattributed_share"]
    assert share is None or share <= 0.01, commodity
open_rows = [c for c in ledger["causes"] if c["cause"] == "wip.open" and c["amount"] not in (0, "0")]
assert not open_rows, open_rows
print("books balance, nothing is left open")

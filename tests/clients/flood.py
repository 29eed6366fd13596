"""A thousand slow streaming clients at once, of which half vanish in the middle.

Afterwards no request is open, no row runs for nobody, and every KV block is free. Only the
standard library is used.
"""

import asyncio
import json
import random
import resource
import sys
import time
import urllib.parse
import urllib.request

CLIENTS = 1000
TOKENS = 16
url = urllib.parse.urlparse(sys.argv[1])


def get(path):
    return urllib.request.urlopen(f"{sys.argv[1]}{path}").read().decode()


def metric(name):
    lines = [line for line in get("/metrics").splitlines() if line.startswith(name)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def client(number, model, start):
    """Reads slowly. Whether it saw the end, or vanished on purpose."""
    dice = random.Random(number)
    vanishes = number % 2 == 0
    body = json.dumps({
        "model": model, "prompt": f"client {number % 50}", "temperature": 0,
        "max_tokens": TOKENS, "stream": True, "ignore_eos": True,
    }).encode()
    await start.wait()
    reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=1 << 16)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: flood\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    await writer.drain()
    text = b""
    patience = dice.randint(0, 2200)
    while piece := await reader.read(dice.randint(16, 700)):
        text += piece
        if vanishes and len(text) > patience:
            # As a machine that is switched off, as far as a socket can.
            writer.transport.abort()
            return "vanished"
        await asyncio.sleep(dice.uniform(0.0, 0.3))
    writer.close()
    assert text.startswith(b"HTTP/1.1 200"), text[:200]
    assert b"data: [DONE]" in text, text[-200:]
    assert text.count(b'"finish_reason":"length"') == 1, text[-600:]
    return "whole"


async def main():
    model = json.loads(get("/v1/models"))["data"][0]["id"]
    start = asyncio.Event()
    clients = [asyncio.create_task(client(n, model, start)) for n in range(CLIENTS)]
    await asyncio.sleep(0)
    began = time.monotonic()
    start.set()
    ends = await asyncio.gather(*clients)
    return ends, time.monotonic() - began


soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192) if hard > 0 else 8192, hard))
ends, seconds = asyncio.run(main())
vanished = ends.count("vanished")
assert vanished >= CLIENTS * 4 // 10, vanished
assert len(ends) == CLIENTS

# The last of the vanished are noticed when their connection is.
deadline = time.monotonic() + 30
while json.loads(get("/health"))["requests"] and time.monotonic() < deadline:
    time.sleep(0.1)
assert json.loads(get("/health"))["requests"] == 0, "a place is still held"
for gauge in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
    assert metric(gauge) == 0, gauge
ended = metric("vllm:request_success_total")
refused = metric("gemba_requests_refused_total")
assert ended == CLIENTS and refused == 0, (ended, refused)
steps = metric("gemba_steps_total")
time.sleep(0.5)
assert metric("gemba_steps_total") == steps, "something still runs for nobody"
print(f"{CLIENTS} clients in {seconds:.1f} s: {CLIENTS - vanished} whole, {vanished} vanished, none left")

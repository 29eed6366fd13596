"""What tests/gpu makes of its inputs, on made ones. No figure here was measured."""

import io
import json
import os
import pathlib
import tempfile
import unittest
from unittest import mock

import engine
import evidence
import machine
import measure
import proofs


def part(name: str, rows: list, **more) -> dict:
    return {
        "schema": "gemba.gpu/1", "commit": "c0ffee", "device": "cuda", "model": "shape:made",
        "system": "Made 1", "part": name, "chosen": [], "began": f"2000-01-0{len(name) % 9 + 1}",
        "status": "complete", "took_s": 1.0, "state": {}, "lacks": [], "rows": rows,
        "card": {"name": "Made", "driver_version": "1", "memory.total": "2", "power.limit": "3",
                 "clocks.max.sm": "4", "clocks.max.memory": "5"},
        "doctor": {"cards": [{"name": "Made"}], "cpu": {"name": "none"}},
    } | more


def kernel(name: str, median: int, **more) -> dict:
    return {"precision": "bf16", "phase": "decode", "sequences": 1, "rows": 1, "context": 127,
            "kernel": name, "launches": 6, "median_ns": median, "floor_ns": 50, "ops": 1000,
            "share": 50 / median, "bytes": 800, "longest": 2048} | more


CEILINGS = {"read_bytes_per_s": 9_000_000_000, "copy_bytes_per_s": 10_000_000_000,
            "cache_bytes_per_s": 11_000_000_000, "launch_floor_ns": 1500,
            "ops_per_s": {"bf16": 40_000_000_000}}


def technique(name: str, rate: float) -> dict:
    return {"name": name, "tokens_per_s": rate, "joules_per_token": None, "oie": 0.1,
            "performance": 0.2, "within_slo": 1, "requests": 2, "largest": [["host", 0.5]]}


def speed(precision: str, batch: int, inflation: dict) -> dict:
    rates = {"median": 2.0, "least": 1.0, "most": 3.0}
    return {"precision": precision, "batch": batch, "prefill_tokens_per_s": 9.0,
            "decode_tokens_per_s": 2.0, "weight_bytes_per_s": 1e9, "read_share": 0.5,
            "decode": rates, "prefill": rates, "timed_by": "records", "inflation": inflation,
            "decode_shares": {"qkv": 0.5, "down": 0.25, "sample": 0.05}}


def peer(stack: str, batch: int, rate: float) -> dict:
    return {"stack": stack, "batch": batch, "decode": {"median": rate},
            "prefill": {"median": 2 * rate}}


def found(*parts: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        for at, one in enumerate(parts):
            (path / f"{at}.json").write_text(json.dumps(one))
        return evidence.gathered([path])


def reached(one: dict) -> dict[str, list]:
    return {line[0]: line[1:] for line in evidence.goals(one)}


class Goals(unittest.TestCase):
    def test_nothing_is_claimed_of_what_was_not_measured(self):
        one = found(part("proofs", [{"suite": "kernels", "test": "a", "outcome": "ok"}]))
        self.assertEqual({line[-1] for line in evidence.goals(one)}, {"not measured"})
        page = evidence.page(one)
        for name in evidence.PARTS[1:]:
            self.assertIn(f"| {name} | not run |", page)

    def test_shares_are_bytes_over_time_by_the_ceiling(self):
        rows = [kernel("qkv", 100), kernel("down", 100), kernel("embed", 10**9),
                kernel("qkv", 10**9, sequences=8),
                kernel("attention_decode", 100, bytes=10), kernel("attention_decode", 160),
                kernel("qkv", 100, phase="prefill", rows=64, context=0, ops=2500),
                kernel("qkv", 1, phase="prefill", rows=16, context=0)]
        ceilings = {"bf16": {"timed_by": "records", "ceilings": CEILINGS}}
        one = found(part("kernels", rows, ceilings=ceilings))
        goals = reached(one)
        # 800 bytes in 100 ns are 8 GB/s of 10; in 160 ns 5. 2500 operations in 100 ns are 25 of 40.
        self.assertEqual(goals["matrix–vector, bf16, of copying"][1:], ["80.0 %", "NO"])
        self.assertEqual(goals["decode attention, of copying"][1:], ["50.0 %", "NO"])
        self.assertEqual(goals["prefill, of the matrix roof"][1:], ["62.5 %", "yes"])
        self.assertEqual(goals["matrix–vector, e4m3, of copying"][-1], "not measured")

    def test_techniques_peers_and_recording(self):
        rows = [technique("naive", 2.0), technique("all", 26.0)]
        peers = [peer("gemba", 1, 20.0), peer("gemba", 1, 22.0), peer("gemba", 8, 30.0),
                 peer("torch compiled", 1, 20.0), peer("torch compiled", 8, 40.0),
                 peer("torch eager", 8, 400.0)]
        observer = {"pairs": 8, "share_ppm": 9_000, "share_ppm_quartiles": [0, 20_000]}
        one = found(part("techniques", rows), part("peers", peers, torch="0"),
                    part("recording", [observer]))
        goals = reached(one)
        self.assertEqual(goals["all techniques over naive"][1:], ["13.00", "yes"])
        least = goals["decode over compiled PyTorch, least batch by batch"]
        self.assertEqual(least[1:], ["0.75", "NO"])
        self.assertEqual(goals["recording"][1:], ["0.9 %", "yes"])
        page = evidence.page(one)
        self.assertIn("| all | 26.0 | 13.00 | – | 10.0 % | 20.0 % | 1 of 2 | host 50.0 % |", page)
        self.assertIn("| 8 | 30.0 | 40.0 | 400.0 |", page)


class Pages(unittest.TestCase):
    def test_parts_of_different_commits_are_not_mixed(self):
        with self.assertRaisesRegex(evidence.Mixed, "different commit: \"c0ffee\", \"dead\""):
            found(part("speed", []), part("proofs", [], commit="dead"))
        other = part("proofs", [])
        other["card"] = other["card"] | {"driver_version": "2"}
        with self.assertRaisesRegex(evidence.Mixed, "different cards: Made, driver 1, Made, "):
            found(part("speed", []), other)
        with self.assertRaises(evidence.Mixed):
            evidence.gathered([pathlib.Path("/nonexistent")])

    def test_what_failed_and_what_lacks_stands_on_the_page(self):
        tests = [{"suite": "kernels", "test": "a::b", "outcome": "failed", "said": "off\nby 2"},
                 {"suite": "kernels", "test": "c", "outcome": "ok alone only"},
                 {"suite": "engines", "test": "d", "outcome": "not run"}]
        tools = [{"tool": "memcheck", "finds_planted": True, "errors": 0, "ran": 3, "failed": [],
                  "not_run": ["d"]},
                 {"tool": "racecheck", "finds_planted": False, "errors": None, "ran": 0,
                  "failed": [], "not_run": []}]
        page = evidence.page(found(part("proofs", tests, lacks=["time"]),
                                   part("sanitizer", tools)))
        for line in ["- proofs: time", "| kernels | 2 | 0 | 1 | 0 | 1 |", "- `a::b`: failed. off by 2",
                     "| engines | 1 | 0 | 0 | 1 | 0 |", "| memcheck | found | 0 | 3 | 0 | 1 |",
                     "| racecheck | NOT FOUND | no summary | 0 | 0 | 0 |"]:
            self.assertIn(line, page)

    def test_what_timing_costs_stands_beside_the_rates(self):
        inflation = {"decode": {"pairs": 24, "median": 1.0625, "quartiles": [1.05, 1.075]}}
        page = evidence.page(found(part("speed", [speed("bf16", 1, inflation)])))
        self.assertIn("| bf16 | 1 | decode | records | 1.062 | 1.050 … 1.075 | 24 |", page)
        self.assertIn("| bf16 | 1 | qkv 50.0 %, down 25.0 %, sample 5.0 % | 20.0 % |", page)
        page = evidence.page(found(part("speed", [speed("bf16", 1, {})])))
        self.assertNotIn("timed by", page)

    def test_what_told_the_times_of_kernels_is_said(self):
        for way, said in evidence.TOLD.items():
            ceilings = {"bf16": {"timed_by": way, "ceilings": CEILINGS}}
            page = evidence.page(found(part("kernels", [kernel("qkv", 100)], ceilings=ceilings)))
            self.assertIn(f"by its median time. {said}\n", page)

    def test_the_best_of_each_ceiling_counts(self):
        slower = CEILINGS | {"read_bytes_per_s": 1, "launch_floor_ns": 1, "ops_per_s": {"f32": 7}}
        one = found(part("kernels", [], ceilings={
            "a": {"timed_by": "events", "ceilings": CEILINGS},
            "b": {"timed_by": "records", "ceilings": slower}}))
        expected = CEILINGS | {"launch_floor_ns": 1,
                               "ops_per_s": CEILINGS["ops_per_s"] | {"f32": 7}}
        self.assertEqual(evidence.ceilings(one), expected)

    def test_energy_says_why_it_is_not_valid(self):
        span = {"least": 1, "most": 2}
        meter = {"start_ns": 10**9, "end_ns": 11 * 10**9, "energy_uj": 10**9,
                 "integrated_uj": 10**9, "clock_mhz": span, "memory_clock_mhz": span,
                 "temperature_c": span, "memory_used_bytes": None,
                 "validity": {"valid": True, "reasons": []}}
        counters = {"why": None, "activity": {"memory_bytes": 3 * 10**9}}
        whole = engine.metered({"meters": [meter], "counters": [counters]})
        self.assertAlmostEqual(whole["ratio"], 1.0)
        whole |= {"counted_by_budget": 1.5}
        doubted = meter | {"integrated_uj": None,
                           "validity": {"valid": False, "reasons": ["too short"]}}
        short = engine.metered({"meters": [doubted], "counters": []})
        self.assertEqual((short["ratio"], short["activity"]), (None, None))
        page = evidence.page(found(part("energy", [whole, short | {"counted_by_budget": None}])))
        self.assertIn("rose by 1000.0 J; power integrates to 1000.0 J: 1.000 of it.\n", page)
        self.assertIn("saw 3.0 GB go to and from its memory: 1.500 of the launches' budgets", page)
        self.assertIn("it told no power. Not valid: too short.", page)

    def test_counted_bytes_stand_beside_speeds(self):
        rates = {"least": 1.0, "most": 2.0}
        row = {"precision": "bf16", "batch": 1, "prefill_tokens_per_s": 1.0,
               "decode_tokens_per_s": 1.0, "decode": rates, "weight_bytes_per_s": 1e9,
               "timed_by": "events", "inflation": {}, "decode_shares": {"qkv": 0.4},
               "read_share": 0.5}
        told = row | {"counters": {"ratio": 1.25, "doubt": None}, "no_counters": None}
        doubted = row | {"counters": {"ratio": 9.0, "doubt": "too low"}, "no_counters": None}
        none = row | {"counters": None, "no_counters": "refused"}
        page = evidence.page(found(part("speed", [told, doubted, none])))
        self.assertIn("| 50.0 % | 1.250 |", page)
        self.assertNotIn("9.000", page)
        for line in ("Counters: too low.", "Counters: refused.", "Counted by budget: bytes"):
            self.assertIn(line, page)


class Inputs(unittest.TestCase):
    def test_what_libtest_prints(self):
        text = ("\nrunning 3 tests\ntest passes::a ... ok\ntest b - should panic ... ok\n"
                "test c ... FAILED\n\nfailures:\n\n---- c stdout ----\n\nthread 'c' panicked at x:\n"
                "c: element 1 is 2\n\n\nfailures:\n    c\n\ntest result: FAILED. 2 passed; 1\n")
        self.assertEqual(proofs.outcomes(text), {"passes::a": "ok", "b": "ok", "c": "failed"})
        self.assertIn("c: element 1 is 2", proofs.complaint(text, "c"))

    def test_what_the_sanitizer_counts(self):
        for log, expected in [
            ("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n", 0),
            ("========= ERROR SUMMARY: 12 errors\n", 12),
            ("========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n", 2),
            ("========= COMPUTE-SANITIZER\n", None),
        ]:
            self.assertEqual(proofs.found_errors(log), expected)

    def test_a_cut_line_is_left_out(self):
        self.assertEqual(engine.json_lines('{"a": 1}\n{"a": 2}\n{"a":'), [{"a": 1}, {"a": 2}])

    def test_what_nvidia_smi_prints_again_and_again(self):
        lines = ["345, 2619, 80.5, 30\n", "1980, 2619, 690.1, 50\n", "[N/A], 2619, 85.5, 31\n"]
        found = machine.spread(lines)
        self.assertEqual(found["clocks.sm"], {"least": 345, "median": 1162.5, "most": 1980})
        self.assertEqual(found["power.draw"]["median"], 85.5)

    def test_every_technique_is_alone_and_left_out_once(self):
        table = engine.configurations([])
        alone = [name for name in engine.TECHNIQUES if name != "graphs"]
        self.assertEqual(len(table), 2 + len(engine.TECHNIQUES) + len(alone))
        self.assertEqual(table["naive"], ["all"])
        self.assertEqual(table["all"], [])
        for name in engine.TECHNIQUES:
            self.assertEqual(table[f"without {name}"], [name])
        for name in alone:
            self.assertEqual({name, *table[f"only {name}"]}, set(engine.TECHNIQUES))
            self.assertNotIn(name, table[f"only {name}"])
        self.assertEqual(list(engine.configurations(["naive", "all"])), ["naive", "all"])
        self.assertEqual(len(engine.configurations(["only"])), len(alone))
        self.assertEqual(engine.configurations(["nothing"]), {})

    def test_serving_leaves_start_up_and_observation_out(self):
        row = lambda cause, commodity, amount, level="waste": {
            "cause": cause, "commodity": commodity, "amount": amount, "level": level}
        ledger = {"causes": [
            row("changeover", "device_time", 9 * 10**9), row("observer", "device_time", 10**9),
            row("host", "device_time", 10**9), row("value.decode", "device_time", 10**9, "value"),
            row("changeover", "energy", 9 * 10**6), row("host", "energy", 4 * 10**6),
        ]}
        summary = {"requests": {"accepted_tokens": 100, "within_slo": 1, "total": 1},
                   "oie": 0.1, "availability": 0.2, "quality": 1.0, "performance": 0.5,
                   "value_share": 0.1, "balanced": True}
        found = engine.figures(summary, ledger)
        self.assertEqual((found["tokens_per_s"], found["joules_per_token"]), (50.0, 0.04))
        self.assertEqual(found["largest"], [["host", 0.5]])
        ledger["causes"] = [one for one in ledger["causes"] if one["commodity"] != "energy"]
        self.assertIsNone(engine.figures(summary, ledger)["joules_per_token"])


class Calls(unittest.TestCase):
    def machine(self, seconds: float = 60) -> machine.Machine:
        made = machine.Machine(seconds, io.StringIO())
        self.addCleanup(made.close)
        return made

    def test_a_command_that_is_stopped_keeps_what_it_printed(self):
        done = self.machine().run(["sh", "-c", "echo one; exec sleep 60"], 1)
        self.assertEqual((done.ended_in_time, done.out), (False, "one\n"))
        self.assertIn("stopped after", done.why())
        done = self.machine(0).run(["sleep", "60"])
        self.assertFalse(done.ended_in_time)
        self.assertEqual(self.machine().run(["/nonexistent"]).code, 127)

    def test_paths_are_the_callers(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(
                os.environ, {"GEMBA": "./here", "MODEL": "model"}):
            (pathlib.Path(folder) / "model").mkdir()
            before = os.getcwd()
            os.chdir(folder)
            try:
                self.assertEqual(engine.model(), str(pathlib.Path(folder).resolve() / "model"))
                self.assertTrue(self.machine().binary("gemba").endswith("/here"))
            finally:
                os.chdir(before)
        with mock.patch.dict(os.environ, {"MODEL": "shape:made"}):
            self.assertEqual(engine.model(), "shape:made")

    def test_parts_share_the_time(self):
        made = self.machine(100)
        made.begin_part(4)
        self.assertAlmostEqual(made.left(), 25, delta=1)
        made.begin_part(1)
        self.assertAlmostEqual(made.left(), 100, delta=1)

    def test_what_is_not_here_is_said(self):
        nowhere = {"PATH": "/nonexistent", "BUNDLE": "/nonexistent", "HOME": "/nonexistent"}
        with mock.patch.dict(os.environ, nowhere), mock.patch.object(
                machine.Machine, "tool", lambda *_: None):
            made = self.machine()
            for name in ("proofs", "sanitizer", "speed"):
                part = measure.measured(made, name, [])
                self.assertEqual((part["status"], part["rows"]), ("absent", []))
                self.assertEqual(len(part["lacks"]), 1, part["lacks"])


if __name__ == "__main__":
    unittest.main()
